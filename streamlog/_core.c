/* streamlog._core: the parts of the library that are run for each record, in C.

   Optional. Each function here has a twin in Python, which says what it has to do, and which runs where this module was not
   built: `records/columns.py` and `records/single.py` for the encoding, `records/columns.py`, `records/kafka_v2.py` and
   `broker/fetched.py` for the decoding, `records/batch.py` and `storage/index.py` for what is looked for, `Batch.rows` and
   `Producer.send` in `client/producer` for sending. `records/core.py` decides which is used. The bytes and the answers are the
   same; tests/unit/records/test_core.py compares them.

   Only what is usual is done here. Whatever is not (compression, headers of records, gaps in the offsets, damage) is left to
   Python: a function then returns None, or stops before it, and Python goes the long way, which also words the errors.

   The format of a batch is in storage/FORMAT.md. Nothing of a batch is used before its checksums are verified, and a
   column is walked once from end to end before the first of its records is made: so the loops that make records need no
   checks. Rows, as Kafka's clients send them, are packed as columns first: what reads columns then reads them. All memory that
   is handed out is owned by Python objects.

   The interpreter's lock is held, but other threads may run between two batches, where handlers of signals run; where xxhash
   releases it; where a function of the library is called; and where something is allocated that is collected as garbage, for up
   to Python 3.11 a collection, and with it finalizers, may run there. No pointer into what others may change is kept over such a
   place. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "The format is little-endian, and this module reads it as it lies in memory: here the library runs without it."
#endif

/* -- the format: see records/batch.py ---------------------------------------------------------------------------- */

enum {
    AT_VERSION = 4, AT_HEADER_LEN = 5, AT_BATCH_LEN = 7, AT_HEADER_HASH = 11, AT_PAYLOAD_HASH = 15, AT_ATTRIBUTES = 23,
    AT_BASE_OFFSET = 27, AT_LAST_OFFSET_DELTA = 35, AT_LEADER_EPOCH = 39, AT_RECORD_COUNT = 43, AT_BASE_TIMESTAMP = 47,
    AT_MAX_TIMESTAMP = 55, AT_MAX_TIMESTAMP_DELTA = 63, AT_APPEND_TIMESTAMP = 67, AT_DELETE_HORIZON = 75,
    AT_PRODUCER_ID = 83, AT_PRODUCER_EPOCH = 91, AT_BASE_SEQUENCE = 93, AT_UNCOMPRESSED_LEN = 97, AT_SCHEMA_ID = 101,
    AT_KEY_ID = 105, FIXED_LEN = 109, ENTRY_LEN = 5
};
static const char MAGIC[4] = {'S', 'L', 'B', 2};
enum { VERSION = 2, OFFSETS = 1, TIMESTAMPS = 2, KEYS = 3, VALUES = 4, MOST_COLUMNS = 3 };
enum { FORM_KAFKA = 1, UNKNOWN_FORM = 0x0e, LOG_APPEND_TIME = 1 << 8, TRANSACTIONAL = 1 << 9 };
#define MAX_BATCH_LEN (1u << 30)
#define MAX_FREE_RECORDS (1u << 22)
#define MAX_OFFSET ((int64_t)1 << 62)

static inline uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint16_t get16_big(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t get32_big(const uint8_t *p) { return (uint32_t)get16_big(p) << 16 | get16_big(p + 2); }
static inline uint64_t get64_big(const uint8_t *p) { return (uint64_t)get32_big(p) << 32 | get32_big(p + 4); }
static inline void put16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

/* -- hashing: by the xxhash package's own function, once for a header and once for a payload ------------------------ */

static PyObject *xxh3_64_intdigest;

/* The hash of a bytes-like object. -1 with an exception set, else 0. */
static int hash_object(PyObject *data, PyObject *seed, uint64_t *digest) {
    PyObject *args[] = {data, seed};
    PyObject *result = PyObject_Vectorcall(xxh3_64_intdigest, args, 2, NULL);
    if (result == NULL)
        return -1;
    *digest = PyLong_AsUnsignedLongLong(result);
    Py_DECREF(result);
    return *digest == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* Some memory, as an object to be hashed: half the cost of a memoryview. It lives no longer than the call. */
typedef struct {
    PyObject_HEAD
    const uint8_t *at;
    Py_ssize_t len;
} Window;

static int window_buffer(Window *self, Py_buffer *view, int flags) {
    return PyBuffer_FillInfo(view, (PyObject *)self, (void *)self->at, self->len, 1, flags);
}

static void window_dealloc(Window *self) { PyObject_Free(self); }

static PyBufferProcs window_as_buffer = {.bf_getbuffer = (getbufferproc)window_buffer};
static PyTypeObject Window_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.Window",
    .tp_basicsize = sizeof(Window),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)window_dealloc,
    .tp_as_buffer = &window_as_buffer,
};

static int hash_memory(const uint8_t *p, size_t n, PyObject *seed, uint64_t *digest) {
    Window *window = PyObject_New(Window, &Window_Type);
    if (window == NULL)
        return -1;
    window->at = p, window->len = (Py_ssize_t)n;
    int result = hash_object((PyObject *)window, seed, digest);
    Py_DECREF(window);
    return result;
}

/* The checksum of a header: over all of it but the checksum itself. */
static int hash_header(const uint8_t *p, size_t header_len, PyObject *seed, uint32_t *checksum) {
    uint8_t hashed[FIXED_LEN + 1 + MOST_COLUMNS * ENTRY_LEN];
    uint64_t digest;
    memcpy(hashed, p, AT_HEADER_HASH);
    memcpy(hashed + AT_HEADER_HASH, p + AT_PAYLOAD_HASH, header_len - AT_PAYLOAD_HASH);
    if (hash_memory(hashed, header_len - 4, seed, &digest) < 0)
        return -1;
    *checksum = (uint32_t)digest;
    return 0;
}

/* -- msgpack: as much of it as the columns need -------------------------------------------------------------------- */

static inline size_t array_size(size_t n) { return n < 16 ? 1 : n < 65536 ? 3 : 5; }
static inline uint8_t *put_array(uint8_t *w, size_t n) {
    if (n < 16) {
        *w++ = (uint8_t)(0x90 | n);
    } else {
        *w++ = n < 65536 ? 0xdc : 0xdd;
        if (n >= 65536) {
            *w++ = (uint8_t)(n >> 24);
            *w++ = (uint8_t)(n >> 16);
        }
        *w++ = (uint8_t)(n >> 8);
        *w++ = (uint8_t)n;
    }
    return w;
}

static inline size_t bin_size(size_t n) { return n + (n < 256 ? 2 : n < 65536 ? 3 : 5); }
static inline uint8_t *put_bin(uint8_t *w, const void *data, size_t n) {
    if (n < 256) {
        *w++ = 0xc4;
    } else if (n < 65536) {
        *w++ = 0xc5;
        *w++ = (uint8_t)(n >> 8);
    } else {
        *w++ = 0xc6;
        *w++ = (uint8_t)(n >> 24);
        *w++ = (uint8_t)(n >> 16);
        *w++ = (uint8_t)(n >> 8);
    }
    *w++ = (uint8_t)n;
    memcpy(w, data, n);
    return w + n;
}

static inline size_t uint_size(uint64_t v) {
    return v < 128 ? 1 : v < 256 ? 2 : v < 65536 ? 3 : v <= UINT32_MAX ? 5 : 9;
}
static inline uint8_t *put_uint(uint8_t *w, uint64_t v) {
    int bytes = 0;
    if (v >= 128) {
        bytes = v < 256 ? 1 : v < 65536 ? 2 : v <= UINT32_MAX ? 4 : 8;
        *w++ = bytes == 1 ? 0xcc : bytes == 2 ? 0xcd : bytes == 4 ? 0xce : 0xcf;
    } else {
        bytes = 1;
    }
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
        *w++ = (uint8_t)(v >> shift);
    return w;
}

typedef struct {
    const uint8_t *at, *end; /* at == NULL: the column is absent */
} Span;

/* The next entry of a column of byte strings: 1 and its bytes, 0 for nil, -1 for anything else. */
static inline int next_bin(Span *s, const uint8_t **data, size_t *n) {
    const uint8_t *p = s->at;
    size_t left = (size_t)(s->end - p), opening, length;
    if (left < 1)
        return -1;
    switch (*p) {
    case 0xc4:
        if (left < 2)
            return -1;
        length = p[1], opening = 2;
        break;
    case 0xc5:
        if (left < 3)
            return -1;
        length = (size_t)p[1] << 8 | p[2], opening = 3;
        break;
    case 0xc6:
        if (left < 5)
            return -1;
        length = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4], opening = 5;
        break;
    case 0xc0:
        s->at = p + 1;
        return 0;
    default:
        return -1;
    }
    if (left - opening < length)
        return -1;
    *data = p + opening, *n = length;
    s->at = p + opening + length;
    return 1;
}

/* The next entry of a column of integers that are not negative: 1, or -1 for anything else. */
static inline int next_uint(Span *s, uint64_t *value) {
    const uint8_t *p = s->at;
    size_t left = (size_t)(s->end - p), bytes;
    if (left < 1)
        return -1;
    if (*p < 0x80) {
        *value = *p;
        s->at = p + 1;
        return 1;
    }
    if (*p < 0xcc || *p > 0xcf)
        return -1;
    bytes = (size_t)1 << (*p - 0xcc);
    if (left < 1 + bytes)
        return -1;
    *value = 0;
    for (size_t i = 1; i <= bytes; i++)
        *value = *value << 8 | p[i];
    s->at = p + 1 + bytes;
    return 1;
}

/* Goes past the opening of an array of `count` entries; -1 if it is not one. */
static inline int open_array(Span *s, uint32_t count) {
    const uint8_t *p = s->at;
    size_t left = (size_t)(s->end - p), opening;
    uint32_t n;
    if (left >= 1 && (*p & 0xf0) == 0x90)
        n = *p & 15, opening = 1;
    else if (left >= 3 && *p == 0xdc)
        n = (uint32_t)p[1] << 8 | p[2], opening = 3;
    else if (left >= 5 && *p == 0xdd)
        n = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4], opening = 5;
    else
        return -1;
    s->at = p + opening;
    return n == count ? 0 : -1;
}

/* -- decoding ------------------------------------------------------------------------------------------------------ */

/* What a walk through a column of byte strings has found. */
typedef struct {
    size_t bytes;   /* of all entries together */
    uint32_t nulls;
    uint32_t width; /* of each entry with its opening of two bytes, if all are as wide; else 0 */
} Shape;

typedef struct {
    uint32_t batch_len, count, attributes;
    int32_t leader_epoch;
    int64_t base_offset, next_offset, base_timestamp;
    Span keys, values, timestamps; /* past the openings of their arrays */
    Shape key_shape, value_shape;
} Batch;

/* Walks a column of byte strings from end to end: 0, or -1 if it is anything else. REQUIRES: count > 0. */
static int walk_entries(Span s, uint32_t count, Shape *shape) {
    size_t left = (size_t)(s.end - s.at), width = left / count;
    if (left == width * count && width >= 2 && width < 258) {
        /* Are all as wide as they would have to be? Entry 0 says so, then entry 1 begins where it is expected, and so on. No step
           waits for the one before: a fifth of the time of the walk below. */
        unsigned expected = 0xc4 | (unsigned)(width - 2) << 8, differences = 0;
        const uint8_t *p = s.at;
        for (uint32_t n = 0; n < count; n++, p += width)
            differences |= get16(p) ^ expected;
        if (!differences) {
            *shape = (Shape){left - 2 * (size_t)count, 0, (uint32_t)width};
            return 0;
        }
    }
    *shape = (Shape){0, 0, 0};
    for (uint32_t n = 0; n < count; n++) {
        const uint8_t *data;
        size_t size;
        int kind = next_bin(&s, &data, &size);
        if (kind < 0)
            return -1;
        if (kind)
            shape->bytes += size;
        else
            shape->nulls++;
    }
    return s.at == s.end ? 0 : -1;
}

/* Goes past the first entries of a column of this shape; an absent one stays absent. REQUIRES: the column was walked. */
static inline void skip_entries(Span *s, uint32_t count, const Shape *shape) {
    const uint8_t *data;
    size_t size;
    if (shape->width)
        s->at += (size_t)count * shape->width;
    else if (s->at != NULL)
        for (uint32_t n = 0; n < count; n++)
            next_bin(s, &data, &size);
}

/* Goes past the first records of a batch. */
static void skip_records(Batch *b, uint32_t count) {
    uint64_t delta;
    skip_entries(&b->keys, count, &b->key_shape);
    skip_entries(&b->values, count, &b->value_shape);
    for (uint32_t n = 0; b->timestamps.at != NULL && n < count; n++)
        next_uint(&b->timestamps, &delta);
}

/* The columns of a batch of which header and payload are verified: 1, or 0 if they are not the usual ones. */
static int read_columns(const uint8_t *p, size_t header_len, Batch *b) {
    unsigned columns = p[FIXED_LEN];
    const uint8_t *body = p + header_len, *end = p + b->batch_len;
    if (b->base_timestamp < 0 || columns > MOST_COLUMNS || header_len != FIXED_LEN + 1 + columns * ENTRY_LEN)
        return 0;
    for (unsigned i = 0; i < columns; i++) {
        const uint8_t *entry = p + FIXED_LEN + 1 + i * ENTRY_LEN;
        uint32_t length = get32(entry + 1);
        Span *span = *entry == KEYS ? &b->keys : *entry == VALUES ? &b->values : *entry == TIMESTAMPS ? &b->timestamps : NULL;
        if (span == NULL || span->at != NULL || length > (size_t)(end - body))
            return 0;
        *span = (Span){body, body + length};
        if (open_array(span, b->count) < 0)
            return 0;
        body += length;
        if (span != &b->timestamps) {
            if (walk_entries(*span, b->count, span == &b->keys ? &b->key_shape : &b->value_shape) < 0)
                return 0;
            continue;
        }
        Span walk = *span;
        for (uint32_t n = 0; n < b->count; n++) {
            uint64_t delta;
            if (next_uint(&walk, &delta) < 0 || delta > (uint64_t)INT64_MAX - (uint64_t)b->base_timestamp)
                return 0;
        }
        if (walk.at != walk.end)
            return 0;
    }
    return body == end;
}

/* -- payload form 1: rows, as Kafka has them; see records/kafka_v2.py ------------------------------------------------ */

enum {
    KAFKA_MAGIC = 2, AT_KAFKA_ATTRIBUTES = 5, AT_KAFKA_LAST_DELTA = 7, AT_KAFKA_BASE_TIMESTAMP = 11, AT_KAFKA_MAX_TIMESTAMP = 19,
    AT_KAFKA_COUNT = 41, KAFKA_FIXED_LEN = 45
};
enum { KAFKA_CODEC = 7, KAFKA_APPEND_TIME = 1 << 3 };

/* A zigzag number: 0, or -1 if it is cut short or takes more than 64 bits. */
static inline int next_varint(Span *s, int64_t *value) {
    const uint8_t *p = s->at;
    uint64_t raw = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (p == s->end)
            return -1;
        uint8_t byte = *p++;
        if (shift == 63 && byte > 1)
            return -1;
        raw |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            s->at = p;
            *value = (int64_t)(raw >> 1 ^ (0 - (raw & 1)));
            return 0;
        }
    }
    return -1;
}

/* Bytes after their length: 1 and the bytes, 0 for the length -1, -1 for anything else. */
static inline int next_sized(Span *s, const uint8_t **data, size_t *n) {
    int64_t size;
    if (next_varint(s, &size) < 0 || size < -1 || size > s->end - s->at)
        return -1;
    if (size == -1)
        return 0;
    *data = s->at, *n = (size_t)size;
    s->at += size;
    return 1;
}

typedef struct {
    int64_t timestamp_delta;
    const uint8_t *key, *value; /* NULL: None */
    size_t key_len, value_len;
} Row;

/* The next record: 0, or -1 if it is not the usual one with this offset delta: without headers. */
static inline int next_row(Span *s, int64_t offset_delta, Row *row) {
    int64_t length, delta, headers;
    if (next_varint(s, &length) < 0 || length < 1 || length > s->end - s->at)
        return -1;
    Span rest = {s->at + 1, s->at + length}; /* a byte of attributes, which have no meaning yet */
    row->key = row->value = NULL;
    row->key_len = row->value_len = 0;
    if (next_varint(&rest, &row->timestamp_delta) < 0 || next_varint(&rest, &delta) < 0 || delta != offset_delta
        || next_sized(&rest, &row->key, &row->key_len) < 0 || next_sized(&rest, &row->value, &row->value_len) < 0
        || next_varint(&rest, &headers) < 0 || headers != 0 || rest.at != rest.end)
        return -1;
    s->at = rest.end;
    return 0;
}

static inline uint8_t *put_entry(uint8_t *w, const uint8_t *data, size_t n) {
    if (data != NULL)
        return put_bin(w, data, n);
    *w = 0xc0;
    return w + 1;
}

/* As `read_columns`, of rows: they are packed as columns, in `packed`, which is what the columns lie in then. -1 with an exception set. */
static int read_rows(const uint8_t *p, size_t header_len, Batch *b, PyObject **packed) {
    const uint8_t *fixed = p + header_len;
    size_t payload_len = b->batch_len - header_len;
    if (header_len != FIXED_LEN + 1 || p[FIXED_LEN] != 0 || payload_len < KAFKA_FIXED_LEN || fixed[0] != KAFKA_MAGIC)
        return 0;
    unsigned attributes = get16_big(fixed + AT_KAFKA_ATTRIBUTES);
    int64_t base = (int64_t)get64_big(fixed + AT_KAFKA_BASE_TIMESTAMP), least = INT64_MAX, greatest = INT64_MIN;
    if (attributes & KAFKA_CODEC || get32_big(fixed + AT_KAFKA_COUNT) != b->count || get32_big(fixed + AT_KAFKA_LAST_DELTA) != b->count - 1
        || base < 0)
        return 0;
    Span rows = {fixed + KAFKA_FIXED_LEN, fixed + payload_len}, walk = rows;
    Row row;
    size_t keys_size = array_size(b->count), values_size = keys_size, times_size = 0;
    uint32_t keys = 0, values = 0;
    for (uint32_t n = 0; n < b->count; n++) {
        int64_t timestamp;
        if (next_row(&walk, n, &row) < 0 || __builtin_add_overflow(base, row.timestamp_delta, &timestamp) || timestamp < 0)
            return 0;
        least = timestamp < least ? timestamp : least;
        greatest = timestamp > greatest ? timestamp : greatest;
        keys_size += row.key == NULL ? 1 : bin_size(row.key_len);
        values_size += row.value == NULL ? 1 : bin_size(row.value_len);
        keys += row.key != NULL;
        values += row.value != NULL;
    }
    if (walk.at != walk.end)
        return 0;
    if (b->attributes & LOG_APPEND_TIME)
        greatest = least; /* the time is in our header */
    else if (attributes & KAFKA_APPEND_TIME)
        b->base_timestamp = least = greatest = (int64_t)get64_big(fixed + AT_KAFKA_MAX_TIMESTAMP);
    else
        b->base_timestamp = least; /* our header has none if nothing had to read the records */
    if (b->base_timestamp < 0)
        return 0;
    if (least != greatest) {
        times_size = array_size(b->count);
        walk = rows;
        for (uint32_t n = 0; n < b->count; n++) {
            next_row(&walk, n, &row);
            times_size += uint_size((uint64_t)(base + row.timestamp_delta - least));
        }
    }
    if (!keys)
        keys_size = 0;
    if (!values)
        values_size = 0;
    *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(keys_size + values_size + times_size));
    if (*packed == NULL)
        return -1;
    uint8_t *start = (uint8_t *)PyBytes_AS_STRING(*packed), *key = start, *value = start + keys_size, *time = value + values_size;
    if (keys)
        b->keys = (Span){start, value}, key = put_array(key, b->count);
    if (values)
        b->values = (Span){value, time}, value = put_array(value, b->count);
    if (times_size)
        b->timestamps = (Span){time, time + times_size}, time = put_array(time, b->count);
    walk = rows;
    for (uint32_t n = 0; n < b->count; n++) {
        next_row(&walk, n, &row);
        if (keys)
            key = put_entry(key, row.key, row.key_len);
        if (values)
            value = put_entry(value, row.value, row.value_len);
        if (times_size)
            time = put_uint(time, (uint64_t)(base + row.timestamp_delta - least));
    }
    if (keys && (open_array(&b->keys, b->count) < 0 || walk_entries(b->keys, b->count, &b->key_shape) < 0))
        return 0;
    if (values && (open_array(&b->values, b->count) < 0 || walk_entries(b->values, b->count, &b->value_shape) < 0))
        return 0;
    if (times_size)
        open_array(&b->timestamps, b->count);
    return 1;
}

/* The header at `p`, if it verifies and has no more columns than usual: 1. 0: Python has to look at it. -1 with an exception set. */
static int open_header(const uint8_t *p, size_t room, PyObject *seed, Batch *b) {
    if (room < FIXED_LEN + 1 || memcmp(p, MAGIC, sizeof MAGIC) || p[AT_VERSION] != VERSION)
        return 0;
    size_t header_len = get16(p + AT_HEADER_LEN);
    b->batch_len = get32(p + AT_BATCH_LEN);
    if (header_len < FIXED_LEN + 1 || header_len > FIXED_LEN + 1 + MOST_COLUMNS * ENTRY_LEN || header_len > room
        || b->batch_len < header_len || b->batch_len > MAX_BATCH_LEN)
        return 0;
    uint32_t checksum;
    if (hash_header(p, header_len, seed, &checksum) < 0)
        return -1;
    if (checksum != get32(p + AT_HEADER_HASH))
        return 0;
    b->attributes = get32(p + AT_ATTRIBUTES);
    b->base_offset = (int64_t)get64(p + AT_BASE_OFFSET);
    b->count = get32(p + AT_RECORD_COUNT);
    b->leader_epoch = (int32_t)get32(p + AT_LEADER_EPOCH);
    b->base_timestamp = (int64_t)get64(p + AT_BASE_TIMESTAMP);
    uint32_t last_offset_delta = get32(p + AT_LAST_OFFSET_DELTA);
    if (b->attributes & UNKNOWN_FORM || b->count > MAX_FREE_RECORDS || last_offset_delta > INT32_MAX || b->base_offset < 0
        || b->base_offset >= MAX_OFFSET)
        return 0;
    b->next_offset = b->base_offset + last_offset_delta + 1;
    return 1;
}

/* The batch at `p`, if it is a usual one and verifies: 1. 0: Python has to look at it. -1 with an exception set.

   `packed` is then a new reference to what its columns lie in, or NULL if they lie in the batch. */
static int open_batch(const uint8_t *p, size_t room, PyObject *seed, uint32_t allowed, Batch *b, PyObject **packed) {
    *packed = NULL;
    int usual = open_header(p, room, seed, b);
    if (usual <= 0)
        return usual;
    if (b->batch_len > room || b->attributes & ~allowed || b->count == 0 || b->next_offset != b->base_offset + b->count)
        return 0;
    size_t header_len = get16(p + AT_HEADER_LEN);
    uint64_t digest;
    if (hash_memory(p + header_len, b->batch_len - header_len, seed, &digest) < 0)
        return -1;
    if (digest != get64(p + AT_PAYLOAD_HASH))
        return 0;
    b->keys = b->values = b->timestamps = (Span){NULL, NULL};
    b->key_shape = b->value_shape = (Shape){0, 0, 0};
    if (!(b->attributes & FORM_KAFKA))
        return read_columns(p, header_len, b);
    usual = read_rows(p, header_len, b, packed);
    if (usual != 1)
        Py_CLEAR(*packed);
    return usual;
}

static PyObject *no_headers;

/* A key or value. REQUIRES: the column was walked. */
static inline PyObject *next_entry(Span *s) {
    const uint8_t *data;
    size_t n;
    if (s->at != NULL && next_bin(s, &data, &n) == 1)
        return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)n);
    return Py_NewRef(Py_None);
}

/* A Record. Takes over the references to `offset`, `timestamp`, `key` and `value`, one of which may be NULL after an error.

   The garbage collector does not track it: all that is in it is atomic, so it is in no cycle. */
static PyObject *new_record(
    PyTypeObject *type, PyObject *topic, PyObject *partition, PyObject *offset, PyObject *timestamp, PyObject *key, PyObject *value) {
    PyTupleObject *record = NULL;
    if (offset != NULL && timestamp != NULL && key != NULL && value != NULL)
        record = PyObject_GC_NewVar(PyTupleObject, type, 7);
    if (record == NULL) {
        Py_XDECREF(offset);
        Py_XDECREF(timestamp);
        Py_XDECREF(key);
        Py_XDECREF(value);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    record->ob_hash = -1;
#endif
    record->ob_item[0] = Py_NewRef(topic);
    record->ob_item[1] = Py_NewRef(partition);
    record->ob_item[2] = offset;
    record->ob_item[3] = timestamp;
    record->ob_item[4] = key;
    record->ob_item[5] = value;
    record->ob_item[6] = Py_NewRef(no_headers);
    return (PyObject *)record;
}

/* -- columns ------------------------------------------------------------------------------------------------------- */

/* The keys or the values of a batch: a sequence that makes each entry when it is asked for. */
typedef struct {
    PyObject_HEAD
    PyObject *owner; /* holds the bytes */
    Span entries;
    uint32_t count, width; /* see Shape */
    uint32_t *starts; /* of the entries, once one in the middle was asked for that has no width to be found by */
} Column;

typedef struct {
    PyObject_HEAD
    Column *column;
    Span rest;
    uint32_t left;
} ColumnIterator;

static PyTypeObject Column_Type, ColumnIterator_Type;

static PyObject *new_column(PyObject *owner, Span entries, uint32_t count, uint32_t width) {
    if (entries.at == NULL)
        Py_RETURN_NONE;
    Column *self = PyObject_New(Column, &Column_Type);
    if (self == NULL)
        return NULL;
    self->owner = Py_NewRef(owner);
    self->entries = entries;
    self->count = count;
    self->width = width;
    self->starts = NULL;
    return (PyObject *)self;
}

static void column_dealloc(Column *self) {
    Py_DECREF(self->owner);
    PyMem_Free(self->starts);
    PyObject_Free(self);
}

static Py_ssize_t column_length(Column *self) { return (Py_ssize_t)self->count; }

static PyObject *column_item(Column *self, Py_ssize_t at) {
    if (at < 0 || at >= (Py_ssize_t)self->count) {
        PyErr_SetString(PyExc_IndexError, "column index out of range");
        return NULL;
    }
    Span entry = self->entries;
    const uint8_t *data;
    size_t size;
    if (self->width) {
        entry.at += (size_t)at * self->width;
        return next_entry(&entry);
    }
    if (self->starts == NULL && at > 8) { /* it costs a walk through all of them: not for one of the first */
        uint32_t *starts = PyMem_Malloc(self->count * sizeof *starts);
        if (starts == NULL)
            return PyErr_NoMemory();
        for (uint32_t n = 0; n < self->count; n++) {
            starts[n] = (uint32_t)(entry.at - self->entries.at);
            next_bin(&entry, &data, &size);
        }
        self->starts = starts;
        entry = self->entries;
    }
    if (self->starts != NULL)
        entry.at += self->starts[at];
    else
        for (Py_ssize_t n = 0; n < at; n++)
            next_bin(&entry, &data, &size);
    return next_entry(&entry);
}

static PyObject *column_list(Column *self, Py_ssize_t start, Py_ssize_t step, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    if (list == NULL)
        return NULL;
    Span rest = self->entries;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *entry = step == 1 && start == 0 ? next_entry(&rest) : column_item(self, start + i * step);
        if (entry == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, entry);
    }
    return list;
}

static PyObject *column_subscript(Column *self, PyObject *key) {
    if (PySlice_Check(key)) {
        Py_ssize_t start, stop, step;
        if (PySlice_Unpack(key, &start, &stop, &step) < 0)
            return NULL;
        Py_ssize_t n = PySlice_AdjustIndices((Py_ssize_t)self->count, &start, &stop, step);
        return column_list(self, start, step, n);
    }
    Py_ssize_t at = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (at == -1 && PyErr_Occurred())
        return NULL;
    return column_item(self, at < 0 ? at + (Py_ssize_t)self->count : at);
}

static PyObject *column_as_list(Column *self, PyObject *Py_UNUSED(ignored)) { return column_list(self, 0, 1, (Py_ssize_t)self->count); }

static PyObject *column_compare(PyObject *self, PyObject *other, int how) {
    if (!PyList_Check(other) && !Py_IS_TYPE(other, &Column_Type))
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *mine = column_as_list((Column *)self, NULL), *result = NULL;
    PyObject *its = mine == NULL ? NULL : Py_IS_TYPE(other, &Column_Type) ? column_as_list((Column *)other, NULL) : Py_NewRef(other);
    if (its != NULL)
        result = PyObject_RichCompare(mine, its, how);
    Py_XDECREF(mine);
    Py_XDECREF(its);
    return result;
}

static PyObject *column_repr(Column *self) {
    PyObject *list = column_as_list(self, NULL), *text = list == NULL ? NULL : PyObject_Repr(list);
    Py_XDECREF(list);
    return text;
}

static PyObject *column_reduce(Column *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *list = column_as_list(self, NULL);
    return list == NULL ? NULL : Py_BuildValue("O(N)", &PyList_Type, list);
}

/* A method of the list that the column is. */
static PyObject *as_list_does(Column *self, const char *name, PyObject *args) {
    PyObject *list = column_as_list(self, NULL), *method = list == NULL ? NULL : PyObject_GetAttrString(list, name), *result = NULL;
    if (method != NULL)
        result = PyObject_CallObject(method, args);
    Py_XDECREF(list);
    Py_XDECREF(method);
    return result;
}
static PyObject *column_index(Column *self, PyObject *args) { return as_list_does(self, "index", args); }
static PyObject *column_count(Column *self, PyObject *args) { return as_list_does(self, "count", args); }

static PyObject *column_iterate(Column *self) {
    ColumnIterator *made = PyObject_New(ColumnIterator, &ColumnIterator_Type);
    if (made != NULL) {
        made->column = (Column *)Py_NewRef(self);
        made->rest = self->entries;
        made->left = self->count;
    }
    return (PyObject *)made;
}

static void iterator_dealloc(ColumnIterator *self) {
    Py_DECREF(self->column);
    PyObject_Free(self);
}

static PyObject *iterator_next(ColumnIterator *self) {
    if (self->left == 0)
        return NULL;
    self->left--;
    return next_entry(&self->rest);
}

static PyObject *iterator_length_hint(ColumnIterator *self, PyObject *Py_UNUSED(ignored)) { return PyLong_FromUnsignedLong(self->left); }

static PyMethodDef column_methods[] = {
    {"index", (PyCFunction)(void (*)(void))column_index, METH_VARARGS, "index(value, start=0, stop=maxsize, /)\n--\n\nAs that of a list."},
    {"count", (PyCFunction)(void (*)(void))column_count, METH_VARARGS, "count(value, /)\n--\n\nAs that of a list."},
    {"__reduce__", (PyCFunction)(void (*)(void))column_reduce, METH_NOARGS, "For copy and pickle: a list."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef iterator_methods[] = {
    {"__length_hint__", (PyCFunction)(void (*)(void))iterator_length_hint, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PySequenceMethods column_sequence = {.sq_length = (lenfunc)column_length, .sq_item = (ssizeargfunc)column_item};
static PyMappingMethods column_mapping = {.mp_length = (lenfunc)column_length, .mp_subscript = (binaryfunc)column_subscript};
static PyTypeObject Column_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.Column",
    .tp_doc = "The keys or the values of a batch: a sequence of bytes and None, each made when it is asked for.",
    .tp_basicsize = sizeof(Column),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_SEQUENCE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)column_dealloc,
    .tp_as_sequence = &column_sequence,
    .tp_as_mapping = &column_mapping,
    .tp_iter = (getiterfunc)column_iterate,
    .tp_richcompare = column_compare,
    .tp_hash = PyObject_HashNotImplemented,
    .tp_repr = (reprfunc)column_repr,
    .tp_methods = column_methods,
};
static PyTypeObject ColumnIterator_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.ColumnIterator",
    .tp_basicsize = sizeof(ColumnIterator),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)iterator_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)iterator_next,
    .tp_methods = iterator_methods,
};

/* Memory of its own that a memoryview shows: bytes, or integers of 64 bits. */
typedef struct {
    PyObject_VAR_HEAD
    Py_ssize_t items, item_size;
    uint8_t data[];
} Storage;

static int storage_buffer(Storage *self, Py_buffer *view, int flags) {
    int filled = PyBuffer_FillInfo(view, (PyObject *)self, self->data, self->items * self->item_size, 1, flags);
    if (filled == 0 && self->item_size == 8 && flags & PyBUF_FORMAT) {
        view->format = "q";
        view->itemsize = 8;
        if (view->shape != NULL)
            view->shape = &self->items;
    }
    return filled;
}

static void storage_dealloc(Storage *self) { PyObject_Free(self); }

static PyBufferProcs storage_as_buffer = {.bf_getbuffer = (getbufferproc)storage_buffer};
static PyTypeObject Storage_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.Storage",
    .tp_basicsize = offsetof(Storage, data),
    .tp_itemsize = 1,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)storage_dealloc,
    .tp_as_buffer = &storage_as_buffer,
};

/* `items` of a size, and some bytes that do not count. */
static Storage *new_storage(Py_ssize_t items, Py_ssize_t item_size, Py_ssize_t more) {
    Storage *made = PyObject_NewVar(Storage, &Storage_Type, items * item_size + more);
    if (made != NULL)
        made->items = items, made->item_size = item_size;
    return made;
}

/* A copy as `memcpy` makes one, in whole blocks: up to BLOCK - 1 bytes after it are read and written too. For the short entries of a
   column it takes half the time. */
enum { BLOCK = 16, MAX_IN_BLOCKS = 256 };
static inline void copy_in_blocks(uint8_t *to, const uint8_t *from, size_t n) {
    for (size_t at = 0; at < n; at += BLOCK)
        memcpy(to + at, from + at, BLOCK);
}

/* Writes the bytes of all entries to `to`, one after another from `end` on, and where each ends. `bits`: one for each that is not nil,
   from the bit `first` on, or NULL. REQUIRES: the column was walked; after the bytes, `to` has room for a block. */
static void copy_entries(Span s, uint32_t count, uint8_t *to, uint64_t end, uint8_t *ends, uint8_t *bits, size_t first) {
    for (size_t n = 0; n < count; n++) {
        const uint8_t *data;
        size_t size;
        if (next_bin(&s, &data, &size) == 1) {
            if (size <= MAX_IN_BLOCKS && (size_t)(s.end - s.at) >= BLOCK)
                copy_in_blocks(to + end, data, size);
            else
                memcpy(to + end, data, size);
            end += size;
            if (bits != NULL)
                bits[(first + n) >> 3] |= (uint8_t)(1u << ((first + n) & 7));
        }
        put64(ends + 8 * n, end);
    }
}

/* As `copy_entries`, where all are as wide, so that none is nil. */
static void copy_wide_entries(Span s, uint32_t count, size_t width, uint8_t *to, uint64_t end, uint8_t *ends, uint8_t *bits, size_t first) {
    const uint8_t *from = s.at + 2;
    size_t size = width - 2, in_blocks = count < BLOCK ? 0 : count - BLOCK, n = 0;
    to += end;
    for (; n < in_blocks; n++, from += width, to += size) /* each has 16 entries after it, of at least two bytes */
        copy_in_blocks(to, from, size);
    for (; n < count; n++, from += width, to += size)
        memcpy(to, from, size);
    for (n = 0; n < count; n++)
        put64(ends + 8 * n, end + (n + 1) * size);
    for (n = 0; bits != NULL && n < count; n++)
        bits[(first + n) >> 3] |= (uint8_t)(1u << ((first + n) & 7));
}

/* The columns of one verified batch, with the methods of `BatchColumns`. */
typedef struct {
    PyObject_HEAD
    PyObject *owner;
    Batch batch;
} Columns;

static PyTypeObject Columns_Type;

/* The keys or the values of some batches, one after another, as Arrow has large binary values: (validity, offsets, data). None if no
   record has one. */
static PyObject *gather_entries(Columns *const *batches, Py_ssize_t n, int are_keys) {
    int has_some = 0, has_nulls = 0;
    size_t bytes = 0, count = 0;
    for (Py_ssize_t at = 0; at < n; at++) {
        const Batch *batch = &batches[at]->batch;
        const Shape *shape = are_keys ? &batch->key_shape : &batch->value_shape;
        int is_absent = (are_keys ? batch->keys : batch->values).at == NULL;
        has_some |= !is_absent;
        has_nulls |= is_absent || shape->nulls;
        bytes += is_absent ? 0 : shape->bytes;
        count += batch->count;
    }
    if (!has_some)
        Py_RETURN_NONE;
    PyObject *validity = has_nulls ? PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count + 7) / 8) : Py_NewRef(Py_None);
    Storage *offsets = new_storage((Py_ssize_t)count + 1, 8, 0), *data = new_storage((Py_ssize_t)bytes, 1, BLOCK);
    PyObject *result = NULL, *shown_offsets = NULL, *shown_data = NULL;
    if (validity != NULL && offsets != NULL && data != NULL) {
        uint8_t *bits = NULL, *ends = offsets->data + 8;
        uint64_t end = 0;
        size_t first = 0;
        if (has_nulls) {
            bits = (uint8_t *)PyBytes_AS_STRING(validity);
            memset(bits, 0, (size_t)PyBytes_GET_SIZE(validity));
        }
        put64(offsets->data, 0);
        for (Py_ssize_t at = 0; at < n; at++) {
            const Batch *batch = &batches[at]->batch;
            const Shape *shape = are_keys ? &batch->key_shape : &batch->value_shape;
            Span entries = are_keys ? batch->keys : batch->values;
            if (entries.at == NULL) {
                for (size_t each = 0; each < batch->count; each++)
                    put64(ends + 8 * each, end);
            } else {
                if (shape->width)
                    copy_wide_entries(entries, batch->count, shape->width, data->data, end, ends, bits, first);
                else
                    copy_entries(entries, batch->count, data->data, end, ends, bits, first);
                end += shape->bytes;
            }
            ends += 8 * (size_t)batch->count;
            first += batch->count;
        }
        shown_offsets = PyMemoryView_FromObject((PyObject *)offsets);
        shown_data = PyMemoryView_FromObject((PyObject *)data);
        if (shown_offsets != NULL && shown_data != NULL)
            result = PyTuple_Pack(3, validity, shown_offsets, shown_data);
    }
    Py_XDECREF(validity);
    Py_XDECREF(offsets);
    Py_XDECREF(data);
    Py_XDECREF(shown_offsets);
    Py_XDECREF(shown_data);
    return result;
}

/* The offsets or the timestamps of some batches, one after another, as integers of 64 bits. */
static PyObject *gather_integers(Columns *const *batches, Py_ssize_t n, int are_offsets) {
    size_t count = 0;
    for (Py_ssize_t at = 0; at < n; at++)
        count += batches[at]->batch.count;
    Storage *made = new_storage((Py_ssize_t)count, 8, 0);
    if (made == NULL)
        return NULL;
    uint8_t *to = made->data;
    for (Py_ssize_t at = 0; at < n; at++) {
        const Batch *batch = &batches[at]->batch;
        Span walk = batch->timestamps;
        int64_t base = are_offsets ? batch->base_offset : batch->base_timestamp;
        for (uint32_t each = 0; each < batch->count; each++, to += 8) {
            uint64_t delta = are_offsets ? each : 0;
            if (!are_offsets && walk.at != NULL)
                next_uint(&walk, &delta);
            put64(to, (uint64_t)base + delta);
        }
    }
    PyObject *shown = PyMemoryView_FromObject((PyObject *)made);
    Py_DECREF(made);
    return shown;
}

/* gather(batches, kind): one column of a list of Columns, one after another */
static PyObject *gather(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    long kind = count == 2 && PyList_CheckExact(args[0]) && PyLong_Check(args[1]) ? PyLong_AsLong(args[1]) : 0;
    if (kind < OFFSETS || kind > VALUES) {
        PyErr_Clear();
        PyErr_SetString(PyExc_TypeError, "gather(list of Columns, kind)");
        return NULL;
    }
    PyObject **items = ((PyListObject *)args[0])->ob_item;
    Py_ssize_t n = PyList_GET_SIZE(args[0]);
    for (Py_ssize_t at = 0; at < n; at++) {
        if (!Py_IS_TYPE(items[at], &Columns_Type)) {
            PyErr_SetString(PyExc_TypeError, "gather(list of Columns, kind)");
            return NULL;
        }
    }
    PyObject *batches = PyList_AsTuple(args[0]); /* a finalizer may change the list while memory is taken */
    if (batches == NULL)
        return NULL;
    Columns *const *each = (Columns *const *)((PyTupleObject *)batches)->ob_item;
    PyObject *result = kind < KEYS ? gather_integers(each, n, kind == OFFSETS) : gather_entries(each, n, kind == KEYS);
    Py_DECREF(batches);
    return result;
}

static void columns_dealloc(Columns *self) {
    Py_DECREF(self->owner);
    PyObject_Free(self);
}

static PyObject *columns_offsets(Columns *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *bounds[] = {PyLong_FromLongLong(self->batch.base_offset), PyLong_FromLongLong(self->batch.next_offset)}, *offsets = NULL;
    if (bounds[0] != NULL && bounds[1] != NULL)
        offsets = PyObject_Vectorcall((PyObject *)&PyRange_Type, bounds, 2, NULL);
    Py_XDECREF(bounds[0]);
    Py_XDECREF(bounds[1]);
    return offsets;
}

static PyObject *columns_timestamps(Columns *self, PyObject *Py_UNUSED(ignored)) {
    Span walk = self->batch.timestamps;
    PyObject *list = PyList_New((Py_ssize_t)self->batch.count), *base = PyLong_FromLongLong(self->batch.base_timestamp);
    if (base == NULL)
        Py_CLEAR(list);
    for (uint32_t n = 0; list != NULL && n < self->batch.count; n++) {
        PyObject *each = base;
        if (walk.at == NULL) {
            Py_INCREF(each);
        } else {
            uint64_t delta = 0;
            next_uint(&walk, &delta);
            each = PyLong_FromLongLong(self->batch.base_timestamp + (int64_t)delta);
        }
        if (each == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)n, each);
    }
    Py_XDECREF(base);
    return list;
}

static PyObject *columns_keys(Columns *self, PyObject *Py_UNUSED(ignored)) {
    return new_column(self->owner, self->batch.keys, self->batch.count, self->batch.key_shape.width);
}
static PyObject *columns_values(Columns *self, PyObject *Py_UNUSED(ignored)) {
    return new_column(self->owner, self->batch.values, self->batch.count, self->batch.value_shape.width);
}
static PyObject *columns_key_buffers(Columns *self, PyObject *Py_UNUSED(ignored)) {
    return gather_entries(&self, 1, 1);
}
static PyObject *columns_value_buffers(Columns *self, PyObject *Py_UNUSED(ignored)) {
    return gather_entries(&self, 1, 0);
}
static PyObject *columns_headers(Columns *Py_UNUSED(self), PyObject *Py_UNUSED(ignored)) { Py_RETURN_NONE; }

static PyMethodDef columns_methods[] = {
    {"offsets", (PyCFunction)(void (*)(void))columns_offsets, METH_NOARGS, NULL},
    {"timestamps", (PyCFunction)(void (*)(void))columns_timestamps, METH_NOARGS, NULL},
    {"keys", (PyCFunction)(void (*)(void))columns_keys, METH_NOARGS, "None: no record has one."},
    {"values", (PyCFunction)(void (*)(void))columns_values, METH_NOARGS, "None: no record has one."},
    {"headers", (PyCFunction)(void (*)(void))columns_headers, METH_NOARGS, "None: no record has any."},
    {"key_buffers", (PyCFunction)(void (*)(void))columns_key_buffers, METH_NOARGS, "See `RecordBatch.buffers`. None: no record has one."},
    {"value_buffers", (PyCFunction)(void (*)(void))columns_value_buffers, METH_NOARGS, "See `RecordBatch.buffers`. None: no record has one."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef columns_members[] = {
    {"base_offset", T_LONGLONG, offsetof(Columns, batch.base_offset), READONLY, NULL},
    {"next_offset", T_LONGLONG, offsetof(Columns, batch.next_offset), READONLY, NULL},
    {"base_timestamp", T_LONGLONG, offsetof(Columns, batch.base_timestamp), READONLY, NULL},
    {"record_count", T_UINT, offsetof(Columns, batch.count), READONLY, NULL},
    {"batch_len", T_UINT, offsetof(Columns, batch.batch_len), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyTypeObject Columns_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.Columns",
    .tp_doc = "The columns of one verified batch, with the methods of `BatchColumns`.",
    .tp_basicsize = sizeof(Columns),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)columns_dealloc,
    .tp_methods = columns_methods,
    .tp_members = columns_members,
};

/* -- reading fetched data -------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_buffer data;
    PyObject *seed, *topic, *partition;
    PyTypeObject *record_type;
    int leader_epoch;    /* batches of another one are left to Python; -1: of any */
    uint32_t allowed;    /* the attributes of batches that are not left to Python */
    int is_inside;       /* a batch is open, of which `done` records were given */
    uint32_t done;
    Batch batch;
    PyObject *packed;    /* what the columns of `batch` lie in, or NULL: in the data */
    PyObject *timestamp; /* of all records of the open batch, if they have the same */
    Py_ssize_t at;       /* of the batch that is next, or open */
    long long position;  /* the offset of the next record to give */
} RecordReader;

/* RecordReader(data, at, position, seed, record_type, topic, partition, leader_epoch, hides). One is made for each fetch: as a
   vectorcall it takes a quarter of the time of `tp_new`. */
static PyObject *reader_new(PyObject *type, PyObject *const *args, size_t flagged_count, PyObject *names) {
    if (PyVectorcall_NARGS(flagged_count) != 9 || names != NULL || !PyLong_Check(args[3]) || !PyType_Check(args[4])
        || !PyUnicode_Check(args[5]) || !PyLong_Check(args[6])) {
        PyErr_SetString(PyExc_TypeError,
            "RecordReader(data, at, position, seed: int, record_type: type, topic: str, partition: int, leader_epoch, hides)");
        return NULL;
    }
    PyObject *seed = args[3], *record_type = args[4], *topic = args[5], *partition = args[6];
    Py_ssize_t at = PyLong_AsSsize_t(args[1]);
    long long position = PyLong_AsLongLong(args[2]);
    long leader_epoch = PyLong_AsLong(args[7]);
    int hides = PyObject_IsTrue(args[8]);
    if (PyErr_Occurred())
        return NULL;
    PyTypeObject *record = (PyTypeObject *)record_type;
    if (!PyType_IsSubtype(record, &PyTuple_Type) || record->tp_basicsize != PyTuple_Type.tp_basicsize || record->tp_dictoffset != 0
        || record->tp_weaklistoffset != 0 || at < 0 || position < 0) {
        PyErr_SetString(PyExc_ValueError, "record_type has to be a plain named tuple, at and position may not be negative");
        return NULL;
    }
    Py_buffer data;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    RecordReader *self = PyObject_New(RecordReader, (PyTypeObject *)type);
    if (self == NULL) {
        PyBuffer_Release(&data);
        return NULL;
    }
    self->data = data;
    self->at = at;
    self->position = position;
    self->seed = Py_NewRef(seed);
    self->topic = Py_NewRef(topic);
    self->partition = Py_NewRef(partition);
    self->record_type = (PyTypeObject *)Py_NewRef(record_type);
    self->leader_epoch = (int)leader_epoch;
    self->is_inside = 0;
    self->done = 0;
    self->timestamp = NULL;
    self->packed = NULL;
    self->allowed = FORM_KAFKA | LOG_APPEND_TIME | (hides ? 0 : TRANSACTIONAL);
    return (PyObject *)self;
}

static void reader_dealloc(RecordReader *self) {
    PyBuffer_Release(&self->data);
    Py_DECREF(self->seed);
    Py_DECREF(self->topic);
    Py_DECREF(self->partition);
    Py_DECREF(self->record_type);
    Py_XDECREF(self->packed);
    Py_XDECREF(self->timestamp);
    PyObject_Free(self);
}

/* Opens the batch at `at`: 1. 0: Python has to look at it. -1 with an exception set.

   Handlers of signals, and other threads while xxhash works, may run in between: the fields are true all the time. */
static int reader_look(RecordReader *self) {
    if (PyErr_CheckSignals() < 0)
        return -1;
    Batch b;
    PyObject *packed;
    int usual = open_batch((const uint8_t *)self->data.buf + self->at, (size_t)(self->data.len - self->at), self->seed, self->allowed, &b,
        &packed);
    if (usual <= 0)
        return usual;
    if (self->leader_epoch != -1 && b.leader_epoch != self->leader_epoch) {
        Py_XDECREF(packed);
        return 0;
    }
    if (b.attributes & LOG_APPEND_TIME)
        b.timestamps.at = NULL;
    self->batch = b;
    Py_XSETREF(self->packed, packed);
    return 1;
}

/* Opens the batch at `at`, and goes to the record at `position` in it. Returns what `reader_look` does. */
static int reader_open(RecordReader *self) {
    int usual = reader_look(self);
    if (usual <= 0)
        return usual;
    Batch *b = &self->batch;
    PyObject *timestamp = NULL;
    if (b->timestamps.at == NULL && (timestamp = PyLong_FromLongLong(b->base_timestamp)) == NULL)
        return -1;
    Py_XSETREF(self->timestamp, timestamp);
    self->done = 0;
    if (self->position > b->base_offset) {
        int64_t skip = self->position - b->base_offset;
        self->done = skip < b->count ? (uint32_t)skip : b->count;
        skip_records(b, self->done);
    }
    self->is_inside = 1;
    return 1;
}

/* take(out, n) -> how many records: see `records_of` in records/columns.py */
static PyObject *reader_take(RecordReader *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take(list, n)");
        return NULL;
    }
    Py_ssize_t want = PyLong_AsSsize_t(args[1]), taken = 0;
    if (want == -1 && PyErr_Occurred())
        return NULL;
    while (taken < want) {
        if (!self->is_inside) {
            if (self->at >= self->data.len)
                break;
            int usual = reader_open(self);
            if (usual < 0)
                return NULL;
            if (usual == 0)
                break;
        }
        Batch *b = &self->batch;
        uint32_t n = self->done;
        for (; n < b->count && taken < want; n++, taken++) {
            uint64_t delta = 0;
            PyObject *timestamp = self->timestamp;
            if (timestamp != NULL) {
                Py_INCREF(timestamp);
            } else {
                next_uint(&b->timestamps, &delta);
                timestamp = PyLong_FromLongLong(b->base_timestamp + (int64_t)delta);
            }
            PyObject *record = new_record(self->record_type, self->topic, self->partition, PyLong_FromLongLong(b->base_offset + n),
                timestamp, next_entry(&b->keys), next_entry(&b->values));
            int appended = record == NULL ? -1 : PyList_Append(args[0], record);
            Py_XDECREF(record);
            if (appended < 0) {
                self->is_inside = 0; /* the batch is opened anew, at `position` */
                return NULL;
            }
            self->position = b->base_offset + n + 1;
        }
        self->done = n;
        if (n == b->count) {
            self->is_inside = 0;
            self->at += b->batch_len;
            if (self->position < b->next_offset)
                self->position = b->next_offset;
        }
    }
    return PyLong_FromSsize_t(taken);
}

/* The first `count` entries alone. REQUIRES: the column was walked, and count > 0. */
static void keep_entries(Span *s, Shape *shape, uint32_t count) {
    Span rest = *s;
    if (s->at == NULL)
        return;
    skip_entries(&rest, count, shape);
    s->end = rest.at;
    walk_entries(*s, count, shape);
}

/* The records from `low` on, `count` of them. REQUIRES: count > 0. */
static void cut_batch(Batch *b, uint32_t low, uint32_t count) {
    skip_records(b, low);
    keep_entries(&b->keys, &b->key_shape, count);
    keep_entries(&b->values, &b->value_shape, count);
    b->base_offset += low;
    b->count = count;
    b->next_offset = b->base_offset + count;
}

/* The columns of the batch at `at`, from `position` on, and of no more than `most` records: 1. 0: the data ends, or Python has to look
   at the batch, or `take` gave a part of it. -1 with an exception set. REQUIRES: most > 0.

   A batch of which a part is left stays at `at`, and is verified once more for the next part. */
static int reader_next(RecordReader *self, Py_ssize_t most, Columns **made) {
    Batch *b = &self->batch;
    for (;;) {
        if (self->is_inside || self->at >= self->data.len)
            return 0;
        int usual = reader_look(self);
        if (usual <= 0)
            return usual;
        if (b->next_offset > self->position)
            break;
        self->at += b->batch_len;
    }
    *made = PyObject_New(Columns, &Columns_Type);
    if (*made == NULL)
        return -1;
    (*made)->owner = Py_NewRef(self->packed != NULL ? self->packed : (PyObject *)self);
    (*made)->batch = *b;
    uint32_t low = self->position > b->base_offset ? (uint32_t)(self->position - b->base_offset) : 0, count = b->count - low;
    if (low || (Py_ssize_t)count > most) {
        count = (Py_ssize_t)count > most ? (uint32_t)most : count;
        cut_batch(&(*made)->batch, low, count);
    }
    if (low + count == b->count)
        self->at += b->batch_len;
    self->position = (*made)->batch.next_offset;
    return 1;
}

/* next_batch() -> Columns, or None: see `reader_next` */
static PyObject *reader_next_batch(RecordReader *self, PyObject *Py_UNUSED(ignored)) {
    Columns *made;
    int found = reader_next(self, PY_SSIZE_T_MAX, &made);
    if (found < 0)
        return NULL;
    if (found == 0)
        Py_RETURN_NONE;
    return (PyObject *)made;
}

/* take_batches(out, n, exactly, make, context) -> how many records: appends make(columns, context) for one batch after another, until
   there are n records; `exactly`: the last one is cut if it has more. Fewer: see `reader_next`. */
static PyObject *reader_take_batches(RecordReader *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 5 || !PyList_CheckExact(args[0]) || !PyBool_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "take_batches(list, n, exactly, make, context)");
        return NULL;
    }
    Py_ssize_t want = PyLong_AsSsize_t(args[1]), taken = 0;
    if (want == -1 && PyErr_Occurred())
        return NULL;
    while (taken < want) {
        Columns *columns;
        int found = reader_next(self, args[2] == Py_True ? want - taken : PY_SSIZE_T_MAX, &columns);
        if (found < 0)
            return NULL;
        if (found == 0)
            break;
        taken += (Py_ssize_t)columns->batch.count;
        PyObject *given[] = {(PyObject *)columns, args[4]};
        PyObject *batch = PyObject_Vectorcall(args[3], given, 2, NULL);
        Py_DECREF(columns);
        int appended = batch == NULL ? -1 : PyList_Append(args[0], batch);
        Py_XDECREF(batch);
        if (appended < 0)
            return NULL;
    }
    return PyLong_FromSsize_t(taken);
}

static PyObject *reader_is_inside(RecordReader *self, void *Py_UNUSED(closure)) { return PyBool_FromLong(self->is_inside); }

static PyMethodDef reader_methods[] = {
    {"take", (PyCFunction)(void (*)(void))reader_take, METH_FASTCALL,
        "take(out, n)\n--\n\nAppend up to n records to the list; how many. Fewer: the data ends, or the batch at `at` is not usual."},
    {"next_batch", (PyCFunction)(void (*)(void))reader_next_batch, METH_NOARGS,
        "next_batch()\n--\n\nThe columns of the batch at `at`. None: the data ends, or it is left to Python."},
    {"take_batches", (PyCFunction)(void (*)(void))reader_take_batches, METH_FASTCALL,
        "take_batches(out, n, exactly, make, context, /)\n--\n\nAppend make(columns, context) to the list for each batch, until there "
        "are n records; how many. Fewer: the data ends, or the batch at `at` is left to Python."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef reader_members[] = {
    {"at", T_PYSSIZET, offsetof(RecordReader, at), READONLY, "Where in the data the batch begins that is next, or of which some were given."},
    {"position", T_LONGLONG, offsetof(RecordReader, position), READONLY, "The offset at which to go on."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef reader_properties[] = {
    {"is_inside", (getter)reader_is_inside, NULL, "Whether more records of the batch at `at` are left.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject RecordReader_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.RecordReader",
    .tp_doc = "The records of the usual batches of fetched data, verified, from an offset on.",
    .tp_basicsize = sizeof(RecordReader),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, /* but by the vectorcall */
    .tp_vectorcall = reader_new,
    .tp_dealloc = (destructor)reader_dealloc,
    .tp_methods = reader_methods,
    .tp_members = reader_members,
    .tp_getset = reader_properties,
};

/* end_of_whole_batches(buffer, position, end) -> int: see records/batch.py */
static PyObject *end_of_whole_batches(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 3) {
        PyErr_SetString(PyExc_TypeError, "end_of_whole_batches(buffer, position, end)");
        return NULL;
    }
    Py_ssize_t position = PyLong_AsSsize_t(args[1]), end = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    Py_buffer data;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    if (end > data.len)
        end = data.len;
    while (position >= 0 && position <= end - FIXED_LEN) {
        uint32_t length = get32((const uint8_t *)data.buf + position + AT_BATCH_LEN);
        if (length < FIXED_LEN || length > (size_t)(end - position))
            break;
        position += length;
    }
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(position);
}

/* find_batch(data, seed, offset) -> (start, end, None) of the first batch in the data that ends at `offset` or past it. None: the data
   ends before its header does, or Python has to look at it, or at one before. The end may be past that of the data. */
static PyObject *find_batch(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    Py_buffer data;
    if (count != 3 || !PyLong_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "find_batch(data, seed: int, offset)");
        return NULL;
    }
    long long offset = PyLong_AsLongLong(args[2]);
    if ((offset == -1 && PyErr_Occurred()) || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *found = NULL;
    for (Py_ssize_t at = 0; at < data.len;) {
        Batch b;
        int usual = open_header((const uint8_t *)data.buf + at, (size_t)(data.len - at), args[1], &b);
        if (usual < 0)
            goto end;
        if (usual == 0)
            break;
        if (b.next_offset > offset) {
            found = Py_BuildValue("nnO", at, at + (Py_ssize_t)b.batch_len, Py_None);
            goto end;
        }
        if ((Py_ssize_t)b.batch_len > data.len - at)
            break;
        at += b.batch_len;
    }
    found = Py_NewRef(Py_None);
end:
    PyBuffer_Release(&data);
    return found;
}

/* bisect_offsets(offsets, offset) -> `bisect.bisect_right` of an array("q"), without an object for each number that is looked at. The
   array is exported for no longer than this call, in which no other thread runs: so another one can append to it. */
static PyObject *bisect_offsets(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    Py_buffer data;
    int overflow = 0;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "bisect_offsets(offsets, offset)");
        return NULL;
    }
    long long offset = PyLong_AsLongLongAndOverflow(args[1], &overflow);
    if ((offset == -1 && PyErr_Occurred()) || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t low = 0, high = overflow < 0 ? 0 : data.len / 8;
    if (overflow > 0)
        low = high;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (offset < (int64_t)get64((const uint8_t *)data.buf + 8 * middle))
            high = middle;
        else
            low = middle + 1;
    }
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(low);
}

/* -- encoding ------------------------------------------------------------------------------------------------------ */

/* An entry of a column, which is a bytes object or None, as it is packed. */
static inline size_t entry_size(PyObject *entry) { return entry == Py_None ? 1 : bin_size((size_t)PyBytes_GET_SIZE(entry)); }
static inline uint8_t *put_object(uint8_t *w, PyObject *entry) {
    if (entry != Py_None)
        return put_bin(w, PyBytes_AS_STRING(entry), (size_t)PyBytes_GET_SIZE(entry));
    *w = 0xc0;
    return w + 1;
}

/* The size of a packed column of bytes objects and Nones. -1 if there is anything else in it, or it is larger than a batch can be:
   no sum overflows, also where 32 bits are all there are. */
static Py_ssize_t packed_size(PyObject *const *entries, Py_ssize_t count) {
    size_t size = array_size((size_t)count);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (entries[i] != Py_None && (!PyBytes_CheckExact(entries[i]) || (size_t)PyBytes_GET_SIZE(entries[i]) > MAX_BATCH_LEN))
            return -1;
        size += entry_size(entries[i]);
        if (size > MAX_BATCH_LEN)
            return -1;
    }
    return (Py_ssize_t)size;
}

static uint8_t *pack_column(uint8_t *w, PyObject *const *entries, Py_ssize_t count) {
    w = put_array(w, (size_t)count);
    for (Py_ssize_t i = 0; i < count; i++)
        w = put_object(w, entries[i]);
    return w;
}

/* The timestamps of the records that a batch is sealed of. */
typedef struct {
    Py_ssize_t count;
    const int64_t *all; /* NULL: all are `least` */
    int64_t least, greatest;
    Py_ssize_t newest; /* the index of the first record that has the greatest */
} Times;

/* REQUIRES: count > 0. */
static Times read_times(const int64_t *all, Py_ssize_t count) {
    Times t = {.count = count, .all = all, .least = all[0], .greatest = all[0], .newest = 0};
    for (Py_ssize_t i = 1; i < count; i++) {
        if (all[i] < t.least)
            t.least = all[i];
        if (all[i] > t.greatest)
            t.greatest = all[i], t.newest = i;
    }
    if (t.least == t.greatest)
        t.all = NULL;
    return t;
}

/* A time that is packed here: 0 and more, in 63 bits. -1: it is not. */
static inline int64_t time_of(PyObject *given) {
    if (!PyLong_CheckExact(given))
        return -1;
    int overflow;
    int64_t time = PyLong_AsLongLongAndOverflow(given, &overflow);
    return overflow ? -1 : time;
}

/* The column directory of a batch. */
typedef struct {
    uint8_t bytes[1 + MOST_COLUMNS * ENTRY_LEN];
    size_t size;
} Directory;

static void add_column(Directory *d, uint8_t kind, size_t size) {
    if (size == 0) /* it is absent */
        return;
    d->bytes[0]++;
    d->bytes[d->size] = kind;
    put32(d->bytes + d->size + 1, (uint32_t)size);
    d->size += ENTRY_LEN;
}

/* A payload with the timestamps, and room for the keys and the values at `*w`, of which the sizes are given: 0 is an absent column.
   None: it would be larger than a batch can be. */
static PyObject *begin_payload(const Times *t, size_t keys, size_t values, Directory *d, uint8_t **w) {
    size_t times = t->all == NULL ? 0 : array_size((size_t)t->count);
    for (Py_ssize_t i = 0; t->all != NULL && i < t->count; i++)
        times += uint_size((uint64_t)(t->all[i] - t->least));
    if (times + keys + values > MAX_BATCH_LEN)
        Py_RETURN_NONE;
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(times + keys + values));
    if (payload == NULL)
        return NULL;
    *w = (uint8_t *)PyBytes_AS_STRING(payload);
    if (times > 0)
        *w = put_array(*w, (size_t)t->count);
    for (Py_ssize_t i = 0; times > 0 && i < t->count; i++)
        *w = put_uint(*w, (uint64_t)(t->all[i] - t->least));
    *d = (Directory){.size = 1};
    add_column(d, TIMESTAMPS, times);
    add_column(d, KEYS, keys);
    add_column(d, VALUES, values);
    return payload;
}

/* (payload, payload_hash, directory, least, greatest, newest). Takes over the reference to the payload. */
static PyObject *seal_payload(PyObject *payload, PyObject *seed, const Directory *d, const Times *t) {
    uint64_t digest;
    if (hash_object(payload, seed, &digest) < 0) {
        Py_DECREF(payload);
        return NULL;
    }
    return Py_BuildValue("NKy#LLn", payload, (unsigned long long)digest, (char *)d->bytes, (Py_ssize_t)d->size, (long long)t->least,
        (long long)t->greatest, t->newest);
}

static int is_sequence_of(PyObject *column, Py_ssize_t count) {
    return (PyList_CheckExact(column) || PyTuple_CheckExact(column)) && PySequence_Fast_GET_SIZE(column) == count;
}

/* seal(seed, keys, values, timestamps, count) -> what `seal_payload` gives, or None if an entry is neither bytes nor None: see
   `columns.seal` */
static PyObject *seal(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 5) {
        PyErr_SetString(PyExc_TypeError, "seal(seed, keys, values, timestamps, count)");
        return NULL;
    }
    PyObject *keys = args[1], *values = args[2], *timestamps = args[3];
    Py_ssize_t count = PyLong_AsSsize_t(args[4]);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    int one_time = PyLong_CheckExact(timestamps), has_keys = keys != Py_None, has_values = values != Py_None;
    if (count < 1 || (size_t)count > MAX_FREE_RECORDS || (has_keys && !is_sequence_of(keys, count))
        || (has_values && !is_sequence_of(values, count)) || (!one_time && !is_sequence_of(timestamps, count)))
        Py_RETURN_NONE;
    Py_ssize_t keys_size = has_keys ? packed_size(PySequence_Fast_ITEMS(keys), count) : 0;
    Py_ssize_t values_size = has_values ? packed_size(PySequence_Fast_ITEMS(values), count) : 0;
    if (keys_size < 0 || values_size < 0)
        Py_RETURN_NONE;
    Times t = {.count = count, .all = NULL};
    int64_t *times = NULL;
    if (one_time) {
        int overflow;
        t.least = t.greatest = PyLong_AsLongLongAndOverflow(timestamps, &overflow);
        if (overflow)
            Py_RETURN_NONE;
    } else {
        times = PyMem_Malloc((size_t)count * sizeof *times);
        if (times == NULL)
            return PyErr_NoMemory();
        PyObject **items = PySequence_Fast_ITEMS(timestamps);
        for (Py_ssize_t i = 0; i < count; i++) {
            if ((times[i] = time_of(items[i])) < 0) {
                PyMem_Free(times);
                Py_RETURN_NONE;
            }
        }
        t = read_times(times, count);
    }
    Directory d;
    uint8_t *w;
    PyObject *payload = begin_payload(&t, (size_t)keys_size, (size_t)values_size, &d, &w);
    PyMem_Free(times);
    if (payload == NULL || payload == Py_None)
        return payload;
    if (has_keys)
        w = pack_column(w, PySequence_Fast_ITEMS(keys), count);
    if (has_values)
        pack_column(w, PySequence_Fast_ITEMS(values), count);
    return seal_payload(payload, args[0], &d, &t);
}

/* The integers from `args` on, in 64 bits: -1 with an exception set, else 0. */
static int read_integers(PyObject *const *args, Py_ssize_t n, long long *into) {
    for (Py_ssize_t i = 0; i < n; i++) {
        into[i] = PyLong_AsLongLong(args[i]);
        if (into[i] == -1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* encode_one(seed, key, value, timestamp, base_offset, leader_epoch, append_ms, producer_id=-1, producer_epoch=-1,
   base_sequence=-1, attributes=0) -> bytes: see records/single.py */
static PyObject *encode_one(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 7 && n != 11) {
        PyErr_SetString(PyExc_TypeError, "encode_one takes 7 or 11 arguments");
        return NULL;
    }
    enum { TIMESTAMP, BASE_OFFSET, LEADER_EPOCH, APPEND_MS, PRODUCER_ID, PRODUCER_EPOCH, BASE_SEQUENCE, ATTRIBUTES };
    long long f[8] = {0, 0, 0, 0, -1, -1, -1, 0};
    PyObject *seed = args[0];
    if (read_integers(args + 3, n - 3, f) < 0)
        return NULL;
    if (f[LEADER_EPOCH] != (int32_t)f[LEADER_EPOCH] || f[PRODUCER_EPOCH] != (int16_t)f[PRODUCER_EPOCH]
        || f[BASE_SEQUENCE] != (int32_t)f[BASE_SEQUENCE] || f[ATTRIBUTES] != (uint32_t)f[ATTRIBUTES]) {
        PyErr_SetString(PyExc_OverflowError, "a field of the header does not hold so large a number");
        return NULL;
    }
    Py_buffer key = {.obj = NULL, .len = 0}, value;
    int has_key = args[1] != Py_None;
    if (has_key && PyObject_GetBuffer(args[1], &key, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[2], &value, PyBUF_SIMPLE) < 0) {
        if (has_key)
            PyBuffer_Release(&key);
        return NULL;
    }
    PyObject *result = NULL;
    size_t key_size = has_key ? 1 + bin_size((size_t)key.len) : 0, value_size = 1 + bin_size((size_t)value.len);
    size_t header_len = FIXED_LEN + 1 + (size_t)(1 + has_key) * ENTRY_LEN, size = header_len + key_size + value_size;
    if ((size_t)key.len > MAX_BATCH_LEN || (size_t)value.len > MAX_BATCH_LEN || size > MAX_BATCH_LEN) {
        PyErr_SetString(PyExc_ValueError, "the record is larger than a batch can be");
        goto end;
    }
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (result == NULL)
        goto end;
    uint8_t *p = (uint8_t *)PyBytes_AS_STRING(result), *entry = p + FIXED_LEN, *w = p + header_len;
    *entry++ = (uint8_t)(1 + has_key);
    if (has_key) {
        *entry = KEYS, put32(entry + 1, (uint32_t)key_size), entry += ENTRY_LEN;
        w = put_bin(put_array(w, 1), key.buf, (size_t)key.len);
    }
    *entry = VALUES, put32(entry + 1, (uint32_t)value_size);
    put_bin(put_array(w, 1), value.buf, (size_t)value.len);
    memcpy(p, MAGIC, sizeof MAGIC);
    p[AT_VERSION] = VERSION;
    put16(p + AT_HEADER_LEN, (uint16_t)header_len);
    put32(p + AT_BATCH_LEN, (uint32_t)size);
    put32(p + AT_ATTRIBUTES, (uint32_t)f[ATTRIBUTES]);
    put64(p + AT_BASE_OFFSET, (uint64_t)f[BASE_OFFSET]);
    put32(p + AT_LAST_OFFSET_DELTA, 0);
    put32(p + AT_LEADER_EPOCH, (uint32_t)f[LEADER_EPOCH]);
    put32(p + AT_RECORD_COUNT, 1);
    put64(p + AT_BASE_TIMESTAMP, (uint64_t)f[TIMESTAMP]);
    put64(p + AT_MAX_TIMESTAMP, (uint64_t)f[TIMESTAMP]);
    put32(p + AT_MAX_TIMESTAMP_DELTA, 0);
    put64(p + AT_APPEND_TIMESTAMP, (uint64_t)f[APPEND_MS]);
    put64(p + AT_DELETE_HORIZON, (uint64_t)-1);
    put64(p + AT_PRODUCER_ID, (uint64_t)f[PRODUCER_ID]);
    put16(p + AT_PRODUCER_EPOCH, (uint16_t)f[PRODUCER_EPOCH]);
    put32(p + AT_BASE_SEQUENCE, (uint32_t)f[BASE_SEQUENCE]);
    put32(p + AT_UNCOMPRESSED_LEN, (uint32_t)(key_size + value_size));
    put32(p + AT_SCHEMA_ID, 0);
    put32(p + AT_KEY_ID, 0);
    uint64_t digest;
    uint32_t checksum;
    if (hash_memory(p + header_len, key_size + value_size, seed, &digest) < 0) {
        Py_CLEAR(result);
        goto end;
    }
    put64(p + AT_PAYLOAD_HASH, digest);
    if (hash_header(p, header_len, seed, &checksum) < 0) {
        Py_CLEAR(result);
        goto end;
    }
    put32(p + AT_HEADER_HASH, checksum);
end:
    if (has_key)
        PyBuffer_Release(&key);
    PyBuffer_Release(&value);
    return result;
}

/* -- the rows of an open batch ------------------------------------------------------------------------------------- */

/* The records that have joined a batch, packed as they came: what `Batch.rows` is, where it is a list without this module. A
   sequence of tuples of key, value and timestamp, and of headers if there are any. Other threads see a row whole or not at all. */
typedef struct {
    uint8_t *bytes;
    size_t size, room;
} Packed;

typedef struct {
    PyObject_HEAD
    Packed keys, values; /* without the msgpack code of the array */
    int64_t *times;
    Py_ssize_t count, room;
    PyObject *headers; /* {index: headers}, or NULL */
} PackedRows;

static int make_room(Packed *column, size_t more) {
    if (more <= column->room - column->size)
        return 0;
    size_t room = 2 * (column->size + more);
    if (room < 1024)
        room = 1024;
    uint8_t *bytes = PyMem_Realloc(column->bytes, room);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    column->bytes = bytes, column->room = room;
    return 0;
}

/* The index of the row, which is added at the end; -1 with an exception set. `key` and `value` are bytes or None. */
static Py_ssize_t add_row(PackedRows *self, PyObject *key, PyObject *value, int64_t time) {
    size_t key_size = entry_size(key), value_size = entry_size(value);
    /* Each summand is at most as large as a batch, so no sum overflows, also where 32 bits are all there are. */
    if (key_size > MAX_BATCH_LEN || value_size > MAX_BATCH_LEN
        || self->keys.size + self->values.size + key_size + value_size > MAX_BATCH_LEN) {
        PyErr_SetString(PyExc_ValueError, "the records are larger than a batch can be");
        return -1;
    }
    if (make_room(&self->keys, key_size) < 0 || make_room(&self->values, value_size) < 0)
        return -1;
    if (self->count == self->room) {
        Py_ssize_t room = self->room == 0 ? 64 : 2 * self->room;
        int64_t *times = PyMem_Realloc(self->times, (size_t)room * sizeof *times);
        if (times == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->times = times, self->room = room;
    }
    self->keys.size = (size_t)(put_object(self->keys.bytes + self->keys.size, key) - self->keys.bytes);
    self->values.size = (size_t)(put_object(self->values.bytes + self->values.size, value) - self->values.bytes);
    self->times[self->count] = time;
    return self->count++;
}

static PyObject *rows_append(PackedRows *self, PyObject *row) {
    Py_ssize_t n = PyTuple_CheckExact(row) ? PyTuple_GET_SIZE(row) : 0;
    if (n != 3 && n != 4) {
        PyErr_SetString(PyExc_TypeError, "a row is a tuple of key, value and timestamp, and of headers if there are any");
        return NULL;
    }
    PyObject *key = PyTuple_GET_ITEM(row, 0), *value = PyTuple_GET_ITEM(row, 1);
    if ((key != Py_None && !PyBytes_Check(key)) || (value != Py_None && !PyBytes_Check(value))) {
        PyErr_SetString(PyExc_TypeError, "keys and values are bytes or None");
        return NULL;
    }
    long long time = PyLong_AsLongLong(PyTuple_GET_ITEM(row, 2));
    if (time == -1 && PyErr_Occurred())
        return NULL;
    if (n == 4 && self->headers == NULL) {
        /* Allocating may collect garbage, and finalizers may add rows, or let others run who do: so it is done first. */
        PyObject *made = PyDict_New();
        if (made == NULL)
            return NULL;
        if (self->headers == NULL)
            self->headers = made;
        else
            Py_DECREF(made);
    }
    PyObject *index = PyLong_FromSsize_t(self->count);
    if (index == NULL)
        return NULL;
    size_t keys = self->keys.size, values = self->values.size;
    if (add_row(self, key, value, time) < 0) {
        Py_CLEAR(index);
    } else if (n == 4 && PyDict_SetItem(self->headers, index, PyTuple_GET_ITEM(row, 3)) < 0) {
        self->keys.size = keys, self->values.size = values, self->count--;
        Py_CLEAR(index);
    }
    return index;
}

/* The entries of a packed column from the one on that begins at `from`. */
static inline Span entries_from(const Packed *column, size_t from) {
    return (Span){column->bytes + from, column->bytes + column->size};
}

/* The rows from `low` up to `high`, as a list; NULL with an exception set. They are copied: others may be added meanwhile. */
static PyObject *make_rows(PackedRows *self, Py_ssize_t low, Py_ssize_t high) {
    PyObject *rows = PyList_New(0);
    const Shape any = {0};
    Span keys = entries_from(&self->keys, 0), values = entries_from(&self->values, 0);
    if (low < high) {
        skip_entries(&keys, (uint32_t)low, &any);
        skip_entries(&values, (uint32_t)low, &any);
    }
    for (Py_ssize_t i = low; rows != NULL && i < high; i++) {
        PyObject *key = next_entry(&keys), *value = next_entry(&values); /* of bytes: no garbage is collected */
        size_t at_key = (size_t)(keys.at - self->keys.bytes), at_value = (size_t)(values.at - self->values.bytes);
        PyObject *time = PyLong_FromLongLong(self->times[i]), *index = PyLong_FromSsize_t(i), *headers = NULL, *row = NULL;
        if (key != NULL && value != NULL && time != NULL && index != NULL) {
            if (self->headers != NULL)
                headers = PyDict_GetItemWithError(self->headers, index);
            if (!PyErr_Occurred())
                row = headers == NULL ? PyTuple_Pack(3, key, value, time) : PyTuple_Pack(4, key, value, time, headers);
        }
        Py_XDECREF(key);
        Py_XDECREF(value);
        Py_XDECREF(time);
        Py_XDECREF(index);
        if (row == NULL || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
        /* That may have collected garbage, and finalizers may have let others run, who may have moved the columns. */
        keys = entries_from(&self->keys, at_key), values = entries_from(&self->values, at_value);
    }
    return rows;
}

static Py_ssize_t rows_length(PackedRows *self) { return self->count; }

static PyObject *rows_subscript(PackedRows *self, PyObject *at) {
    if (PySlice_Check(at)) {
        Py_ssize_t low, high, step;
        if (PySlice_Unpack(at, &low, &high, &step) < 0)
            return NULL;
        Py_ssize_t n = PySlice_AdjustIndices(self->count, &low, &high, step);
        if (step != 1) {
            PyErr_SetString(PyExc_ValueError, "rows are given one after the other");
            return NULL;
        }
        return make_rows(self, low, low + n);
    }
    Py_ssize_t index = PyNumber_AsSsize_t(at, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    if (index < 0)
        index += self->count;
    if (index < 0 || index >= self->count) {
        PyErr_SetString(PyExc_IndexError, "there is no such row");
        return NULL;
    }
    PyObject *rows = make_rows(self, index, index + 1);
    PyObject *row = rows == NULL ? NULL : Py_NewRef(PyList_GET_ITEM(rows, 0));
    Py_XDECREF(rows);
    return row;
}

/* The size of the column of the first `count` entries, packed; 0 if all of them are None. */
static size_t size_until(const Packed *column, Py_ssize_t count, Py_ssize_t of) {
    Span rest = entries_from(column, 0);
    const uint8_t *data;
    size_t size;
    int is_there = 0;
    for (Py_ssize_t i = 0; i < count && !(is_there && count == of); i++) /* nearly always all of them, and the first one tells */
        is_there |= next_bin(&rest, &data, &size);
    return is_there ? array_size((size_t)count) + (count == of ? column->size : (size_t)(rest.at - column->bytes)) : 0;
}

/* Puts a column of this size, of `size_until`. */
static uint8_t *put_packed(uint8_t *w, const Packed *column, size_t size, Py_ssize_t count) {
    if (size == 0)
        return w;
    memcpy(put_array(w, (size_t)count), column->bytes, size - array_size((size_t)count));
    return w + size;
}

/* rows.seal(seed, count) -> what `seal_payload` gives of the first `count` rows, and their timestamps: a list, or the one that all
   have. None: a row has headers, or the batch is too large or too old for this. See `columns.seal_rows`.

   A column of Nones alone is absent. */
static PyObject *rows_seal(PackedRows *self, PyObject *const *args, Py_ssize_t n) {
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "seal(seed, count)");
        return NULL;
    }
    Py_ssize_t count = PyLong_AsSsize_t(args[1]);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 1 || (size_t)count > MAX_FREE_RECORDS || count > self->count || self->headers != NULL)
        Py_RETURN_NONE;
    Times t = read_times(self->times, count);
    if (t.least < 0)
        Py_RETURN_NONE;
    size_t keys = size_until(&self->keys, count, self->count), values = size_until(&self->values, count, self->count);
    Directory d;
    uint8_t *w;
    PyObject *payload = begin_payload(&t, keys, values, &d, &w);
    if (payload == NULL || payload == Py_None)
        return payload;
    w = put_packed(w, &self->keys, keys, count);
    put_packed(w, &self->values, values, count);
    int has_one_time = t.all == NULL;
    PyObject *sealed = seal_payload(payload, args[0], &d, &t), *times = NULL, *result = NULL;
    if (sealed != NULL)
        times = has_one_time ? PyLong_FromLongLong(t.least) : PyList_New(count);
    for (Py_ssize_t i = 0; times != NULL && !has_one_time && i < count; i++) {
        PyObject *time = PyLong_FromLongLong(self->times[i]);
        if (time == NULL)
            Py_CLEAR(times);
        else
            PyList_SET_ITEM(times, i, time);
    }
    if (times != NULL)
        result = PyTuple_Pack(2, sealed, times);
    Py_XDECREF(sealed);
    Py_XDECREF(times);
    return result;
}

static PyObject *rows_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    return PyArg_ParseTupleAndKeywords(args, kwargs, "", names) ? type->tp_alloc(type, 0) : NULL;
}

static void rows_dealloc(PackedRows *self) {
    PyMem_Free(self->keys.bytes);
    PyMem_Free(self->values.bytes);
    PyMem_Free(self->times);
    Py_XDECREF(self->headers);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef rows_methods[] = {
    {"append", (PyCFunction)rows_append, METH_O, "append($self, row, /)\n--\n\nAdd a row at the end; its index."},
    {"seal", (PyCFunction)(void (*)(void))rows_seal, METH_FASTCALL,
        "seal($self, seed, count, /)\n--\n\nThe payload of a batch of the first rows, its hash, its directory, what its timestamps come "
        "to, and the timestamps. None: not usual."},
    {NULL, NULL, 0, NULL},
};
static PySequenceMethods rows_as_sequence = {.sq_length = (lenfunc)rows_length};
static PyMappingMethods rows_as_mapping = {.mp_length = (lenfunc)rows_length, .mp_subscript = (binaryfunc)rows_subscript};
static PyTypeObject PackedRows_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.PackedRows",
    .tp_basicsize = sizeof(PackedRows),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = rows_new,
    .tp_dealloc = (destructor)rows_dealloc,
    .tp_methods = rows_methods,
    .tp_as_sequence = &rows_as_sequence,
    .tp_as_mapping = &rows_as_mapping,
};

/* -- sending ------------------------------------------------------------------------------------------------------- */

/* `Producer.send`, in C for nearly every record of a program that sends many: a key and a value of bytes, for the open batch of a
   topic with one partition. Everything else goes to `otherwise`, which takes all six arguments, or to `function`, which has the
   signature and the documentation. No other thread runs between the steps, so a record joins the batch that was found open. */
enum { PRODUCER, TOPIC, QUEUE, BATCH, DELIVERY, TYPES };
enum {
    TOPICS, NOW_NS, LINGERING, MAX_SIZE, BATCHES, BATCH_RECORDS, ROWS, SIZE, CLOSED, LIMIT, DELIVERY_BATCH, DELIVERY_INDEX, SLOTS
};
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function, *otherwise, *weak_references;
    PyTypeObject *types[TYPES];
    Py_ssize_t at[SLOTS];
    Py_ssize_t overhead; /* what a record counts for besides its key and value */
} SendMethod;
static const struct {
    int type;
    const char *name;
} slots[SLOTS] = {
    {PRODUCER, "_topics"}, {PRODUCER, "_now_ns"}, {TOPIC, "lingering"}, {TOPIC, "max_size"}, {QUEUE, "queue"},
    {QUEUE, "batch_records"}, {BATCH, "rows"}, {BATCH, "size"}, {BATCH, "closed"}, {BATCH, "limit"}, {DELIVERY, "_batch"},
    {DELIVERY, "_index"},
};
static PyObject *name_filled, *name_key;

/* Where the instances of a class have one of its __slots__; -1 with an exception set. */
static Py_ssize_t slot_of(PyTypeObject *type, const char *name) {
    PyObject *member = PyObject_GetAttrString((PyObject *)type, name);
    if (member == NULL)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(member, &PyMemberDescr_Type) && ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX)
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%s is no slot of %s", name, type->tp_name);
    Py_DECREF(member);
    return offset;
}

/* Where an object has one of its slots. REQUIRES: it is an instance of the slot's class. What is there is borrowed, or NULL. */
static inline PyObject **in_slot(const SendMethod *self, PyObject *of, int slot) {
    return (PyObject **)((char *)of + self->at[slot]);
}

/* An integer in 64 bits; -1 if it is none, without an exception. */
static inline int64_t number_of(PyObject *value) {
    int overflow;
    return value == NULL || !PyLong_CheckExact(value) ? -1 : PyLong_AsLongLongAndOverflow(value, &overflow);
}

/* What the producer's clock says; -1 if that is no time, with an exception set or without. */
static int64_t read_clock(const SendMethod *self, PyObject *producer) {
    PyObject *clock = *in_slot(self, producer, NOW_NS);
    if (clock == NULL)
        return -1;
    Py_INCREF(clock);
    PyObject *now = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    int64_t now_ns = number_of(now);
    Py_XDECREF(now);
    return now_ns;
}

/* The open batch that a record of bytes may join at once, with its queue, as new references; else 0. */
static int batch_to_join(const SendMethod *self, PyObject *producer, PyObject *topic, int64_t size, PyObject **queue, PyObject **batch) {
    if (!PyObject_TypeCheck(producer, self->types[PRODUCER]))
        return 0;
    PyObject *topics = *in_slot(self, producer, TOPICS);
    if (topics == NULL || !PyDict_CheckExact(topics))
        return 0;
    PyObject *cached = PyDict_GetItemWithError(topics, topic); /* strings are compared: nothing else runs */
    if (cached == NULL || !Py_IS_TYPE(cached, self->types[TOPIC]) || size > number_of(*in_slot(self, cached, MAX_SIZE)))
        return 0;
    PyObject *of = *in_slot(self, cached, LINGERING);
    if (of == NULL || !Py_IS_TYPE(of, self->types[QUEUE]) || *in_slot(self, of, BATCHES) == NULL)
        return 0;
    Py_INCREF(of);
    PyObject *last = PySequence_GetItem(*in_slot(self, of, BATCHES), -1);
    if (last == NULL || !Py_IS_TYPE(last, self->types[BATCH])) {
        Py_XDECREF(last);
        Py_DECREF(of);
        return 0;
    }
    *queue = of, *batch = last;
    return 1;
}

static PyObject *call_otherwise(const SendMethod *self, PyObject *const *args, Py_ssize_t n, size_t nargsf, PyObject *kwnames) {
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (n < 2 || n + named > 4 || (named > 0 && (named > 1 || n != 3 || PyTuple_GET_ITEM(kwnames, 0) != name_key)))
        return PyObject_Vectorcall(self->function, args, nargsf, kwnames);
    PyObject *all[] = {args[0], args[1], n > 2 ? args[2] : Py_None, n + named > 3 ? args[3] : Py_None, Py_None, Py_None, Py_None};
    return PyObject_Vectorcall(self->otherwise, all, 7, NULL);
}

static PyObject *send_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    SendMethod *self = (SendMethod *)callable;
    Py_ssize_t n = PyVectorcall_NARGS(nargsf), named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *queue = NULL, *batch = NULL, *delivery = NULL;
    if (n + named != 4 || n < 3 || (named == 1 && PyTuple_GET_ITEM(kwnames, 0) != name_key))
        goto unusual;
    PyObject *topic = args[1], *value = args[2], *key = args[3];
    if (!PyUnicode_CheckExact(topic) || !PyBytes_CheckExact(value) || !PyBytes_CheckExact(key))
        goto unusual;
    int64_t size = PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value) + self->overhead;
    if (!batch_to_join(self, args[0], topic, size, &queue, &batch))
        goto unusual;
    /* Allocating may collect garbage, and a clock may be a test's, so others may run: both come first, and nothing runs after them. */
    delivery = self->types[DELIVERY]->tp_alloc(self->types[DELIVERY], 0);
    int64_t now_ns = delivery == NULL ? -1 : read_clock(self, args[0]);
    if (now_ns < 0) {
        if (PyErr_Occurred())
            goto failed;
        goto unusual;
    }
    PyObject *rows = *in_slot(self, batch, ROWS);
    int64_t before = number_of(*in_slot(self, batch, SIZE)), limit = number_of(*in_slot(self, batch, LIMIT));
    int64_t most = number_of(*in_slot(self, queue, BATCH_RECORDS));
    if (rows == NULL || !Py_IS_TYPE(rows, &PackedRows_Type) || *in_slot(self, batch, CLOSED) != Py_False || before < 0 || limit < 0 || most < 0)
        goto unusual;
    size += before;
    PyObject *sum = PyLong_FromLongLong(size), *index = PyLong_FromSsize_t(((PackedRows *)rows)->count);
    if (sum == NULL || index == NULL) {
        Py_XDECREF(sum);
        Py_XDECREF(index);
        goto failed;
    }
    *in_slot(self, delivery, DELIVERY_INDEX) = index;
    *in_slot(self, delivery, DELIVERY_BATCH) = batch; /* the reference is the delivery's now */
    Py_ssize_t at = add_row((PackedRows *)rows, key, value, now_ns / 1000000);
    if (at < 0) {
        Py_DECREF(sum);
        batch = NULL;
        goto failed;
    }
    Py_SETREF(*in_slot(self, batch, SIZE), sum); /* an integer: nothing runs */
    if (size >= limit || at + 1 >= most) {
        PyObject *done = PyObject_CallMethodObjArgs(queue, name_filled, batch, index, NULL);
        if (done == NULL)
            Py_CLEAR(delivery);
        Py_XDECREF(done);
    }
    Py_DECREF(queue);
    return delivery;
unusual:
    PyErr_Clear();
    Py_XDECREF(queue);
    Py_XDECREF(batch);
    Py_XDECREF(delivery);
    return call_otherwise(self, args, n, nargsf, kwnames);
failed:
    Py_XDECREF(queue);
    Py_XDECREF(batch);
    Py_XDECREF(delivery);
    return NULL;
}

static PyObject *send_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"function", "otherwise", "producer", "topic", "queue", "batch", "delivery", "overhead", NULL};
    PyObject *function, *otherwise;
    PyTypeObject *types[TYPES];
    Py_ssize_t overhead;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!O!O!O!O!n", names, &PyFunction_Type, &function, &PyFunction_Type, &otherwise,
            &PyType_Type, &types[PRODUCER], &PyType_Type, &types[TOPIC], &PyType_Type, &types[QUEUE], &PyType_Type, &types[BATCH],
            &PyType_Type, &types[DELIVERY], &overhead))
        return NULL;
    SendMethod *self = (SendMethod *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = send_call;
    self->function = Py_NewRef(function);
    self->otherwise = Py_NewRef(otherwise);
    self->overhead = overhead;
    for (int i = 0; i < TYPES; i++)
        self->types[i] = (PyTypeObject *)Py_NewRef(types[i]);
    for (int i = 0; i < SLOTS; i++) {
        if ((self->at[i] = slot_of(types[slots[i].type], slots[i].name)) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

/* No tp_clear, as of a tuple: what it refers to never changes, so each cycle that it is in has a class or a function, which is cleared.
   It may be called while that is done. */
static int send_traverse(SendMethod *self, visitproc visit, void *arg) {
    Py_VISIT(self->function);
    Py_VISIT(self->otherwise);
    for (int i = 0; i < TYPES; i++)
        Py_VISIT(self->types[i]);
    return 0;
}
static void send_dealloc(SendMethod *self) {
    PyObject_GC_UnTrack(self);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    Py_XDECREF(self->function);
    Py_XDECREF(self->otherwise);
    for (int i = 0; i < TYPES; i++)
        Py_XDECREF(self->types[i]);
    Py_TYPE(self)->tp_free(self);
}
static PyObject *send_get(PyObject *self, PyObject *of, PyObject *Py_UNUSED(type)) {
    return of == NULL || of == Py_None ? Py_NewRef(self) : PyMethod_New(self, of);
}
/* What help(), inspect, doctest and unittest.mock ask of a function: nothing shows that it is none, also its `__class__`. */
static PyObject *send_attribute(PyObject *self, PyObject *name) {
    PyObject *found = PyObject_GenericGetAttr(self, name);
    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    return PyObject_GetAttr(((SendMethod *)self)->function, name);
}
static PyObject *send_doc(SendMethod *self, void *Py_UNUSED(closure)) { return PyObject_GetAttrString(self->function, "__doc__"); }
static PyObject *send_module(SendMethod *self, void *Py_UNUSED(closure)) { return PyObject_GetAttrString(self->function, "__module__"); }
static int send_set_attribute(PyObject *self, PyObject *name, PyObject *value) {
    return PyObject_SetAttr(((SendMethod *)self)->function, name, value);
}
static PyObject *send_repr(SendMethod *self) { return PyObject_Repr(self->function); }
static PyObject *send_class(SendMethod *Py_UNUSED(self), void *Py_UNUSED(closure)) { return Py_NewRef((PyObject *)&PyFunction_Type); }
static PyObject *send_reduce(SendMethod *self, PyObject *Py_UNUSED(ignored)) {
    return PyObject_GetAttrString(self->function, "__qualname__");
}
static PyMethodDef send_methods[] = {
    {"__reduce__", (PyCFunction)(void (*)(void))send_reduce, METH_NOARGS, "For copy and pickle: by its name, as a function."},
    {NULL, NULL, 0, NULL},
};
static PyObject *send_wrapped(SendMethod *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->function); }
static PyGetSetDef send_properties[] = {
    {"__class__", (getter)send_class, NULL, NULL, NULL},
    {"__doc__", (getter)send_doc, NULL, NULL, NULL},
    {"__module__", (getter)send_module, NULL, NULL, NULL},
    {"__wrapped__", (getter)send_wrapped, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject SendMethod_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamlog._core.SendMethod",
    .tp_basicsize = sizeof(SendMethod),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = send_new,
    .tp_dealloc = (destructor)send_dealloc,
    .tp_traverse = (traverseproc)send_traverse,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(SendMethod, call),
    .tp_descr_get = send_get,
    .tp_getattro = send_attribute,
    .tp_setattro = send_set_attribute,
    .tp_repr = (reprfunc)send_repr,
    .tp_methods = send_methods,
    .tp_getset = send_properties,
    .tp_weaklistoffset = offsetof(SendMethod, weak_references),
};

/* -- the module ---------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"gather", (PyCFunction)(void (*)(void))gather, METH_FASTCALL,
        "gather(batches, kind, /)\n--\n\nA column of many batches: 64-bit integers, or what `RecordBatch.buffers` gives."},
    {"bisect_offsets", (PyCFunction)(void (*)(void))bisect_offsets, METH_FASTCALL,
        "bisect_offsets(offsets, offset, /)\n--\n\nAs `bisect.bisect_right` of an array of 64-bit integers."},
    {"find_batch", (PyCFunction)(void (*)(void))find_batch, METH_FASTCALL,
        "find_batch(data, seed, offset, /)\n--\n\nWhere the first batch begins and ends whose last offset is at or past `offset`."},
    {"seal", (PyCFunction)(void (*)(void))seal, METH_FASTCALL,
        "seal(seed, keys, values, timestamps, count, /)\n--\n\nThe payload of a batch, its hash, its directory, and what its "
        "timestamps come to. None: not the usual columns."},
    {"encode_one", (PyCFunction)(void (*)(void))encode_one, METH_FASTCALL,
        "encode_one(seed, key, value, timestamp, base_offset, leader_epoch, append_ms, producer_id, producer_epoch, base_sequence, "
        "attributes, /)\n--\n\nA whole batch of one record. The last four may be left out."},
    {"end_of_whole_batches", (PyCFunction)(void (*)(void))end_of_whole_batches, METH_FASTCALL,
        "end_of_whole_batches(buffer, position, end, /)\n--\n\nThe end of the last batch that ends at or before `end`, if one begins at "
        "`position`. Nothing is verified."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "streamlog._core", "The parts of the library that are run for each record, in C.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void) {
    const char *pure = getenv("STREAMLOG_PURE");
    if (pure != NULL && strcmp(pure, "1") == 0) {
        PyErr_SetString(PyExc_ImportError, "STREAMLOG_PURE=1 in the environment leaves streamlog._core out");
        return NULL;
    }
    PyObject *xxhash = PyImport_ImportModule("xxhash");
    if (xxhash == NULL)
        return NULL;
    xxh3_64_intdigest = PyObject_GetAttrString(xxhash, "xxh3_64_intdigest");
    Py_DECREF(xxhash);
    if (xxh3_64_intdigest == NULL)
        return NULL;
    struct {
        PyObject **into;
        const char *name;
    } names[] = {{&name_filled, "filled"}, {&name_key, "key"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((*names[i].into = PyUnicode_InternFromString(names[i].name)) == NULL)
            return NULL;
    no_headers = PyTuple_New(0);
    if (no_headers == NULL || PyType_Ready(&Window_Type) < 0 || PyType_Ready(&Storage_Type) < 0
        || PyType_Ready(&RecordReader_Type) < 0 || PyType_Ready(&Column_Type) < 0 || PyType_Ready(&ColumnIterator_Type) < 0 || PyType_Ready(&Columns_Type) < 0
        || PyType_Ready(&PackedRows_Type) < 0 || PyType_Ready(&SendMethod_Type) < 0)
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddObjectRef(made, "RecordReader", (PyObject *)&RecordReader_Type) < 0
        || PyModule_AddObjectRef(made, "PackedRows", (PyObject *)&PackedRows_Type) < 0
        || PyModule_AddObjectRef(made, "SendMethod", (PyObject *)&SendMethod_Type) < 0
        || PyModule_AddObjectRef(made, "Column", (PyObject *)&Column_Type) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
