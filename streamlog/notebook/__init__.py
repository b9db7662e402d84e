"""What a notebook shows of the handles, and what only a notebook needs. Extra `notebook`.

The methods of the handles that need it load it through `client/extras.py`.
"""
