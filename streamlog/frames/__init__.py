"""Records as Arrow's columns, for data frames and SQL. Extra `arrow`: pyarrow.

The methods of the handles that need it load it through `client/extras.py`.
"""
