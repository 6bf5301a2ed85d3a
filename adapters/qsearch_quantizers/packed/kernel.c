/* The product of some tokens with a weight that stays in codes, which are decoded in registers:

       y[row] = sum over columns of ((levels[code] - zero) * scale) * x[column]

   and that of an adapter added, in float32, so that a weight is to the bit what dequantizing gives; the order of the sum is its own.

   Rows are in tiles of 16, one a lane. A word of 32 bits has a row's next 32 / bits codes, lowest
   first; a tile's words are in the order of columns, and of rows within. Scales and zero points are
   one a group of a row, in tiles too. */

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES 16

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

struct weight {
    int32_t bits;
    const int32_t *words;
    const float *scales;
    const float *zeros;  /* Or null: all are 0. */
    const float *levels; /* 16 for codes of 2 and 4 bits, those of 2 bits repeated; 256 for 8 bits,
                            or null where codes are levels. */
    int64_t tiles, columns, group;
};

#define INLINE static inline __attribute__((always_inline))

/* Levels of the codes in the lowest bits, whatever is above them. */
INLINE floats of_few(const float *levels, ints codes) {
    floats values;
#if defined(__AVX512F__)
    values = (floats)_mm512_permutexvar_ps((__m512i)codes, _mm512_loadu_ps(levels));
#elif defined(__AVX2__)
    __m256 low = _mm256_loadu_ps(levels), high = _mm256_loadu_ps(levels + 8);
    for (int half = 0; half < 2; half++) {
        __m256i at;
        memcpy(&at, (const char *)&codes + 32 * half, 32);
        __m256 below = _mm256_permutevar8x32_ps(low, at);
        __m256 above = _mm256_permutevar8x32_ps(high, at);
        /* The fourth bit of a code says which; blending asks the sign. */
        __m256i which = _mm256_slli_epi32(at, 28);
        __m256 both = _mm256_blendv_ps(below, above, _mm256_castsi256_ps(which));
        memcpy((char *)&values + 32 * half, &both, 32);
    }
#else
    for (int lane = 0; lane < LANES; lane++) values[lane] = levels[codes[lane] & 15];
#endif
    return values;
}

INLINE floats gathered(const float *values, ints places) {
    floats out;
#if defined(__AVX512F__)
    out = (floats)_mm512_i32gather_ps((__m512i)places, values, 4);
#elif defined(__AVX2__)
    for (int half = 0; half < 2; half++) {
        __m256i at;
        memcpy(&at, (const char *)&places + 32 * half, 32);
        __m256 some = _mm256_i32gather_ps(values, at, 4);
        memcpy((char *)&out + 32 * half, &some, 32);
    }
#else
    for (int lane = 0; lane < LANES; lane++) out[lane] = values[places[lane]];
#endif
    return out;
}

INLINE floats of_many(const float *levels, ints codes) {
    return gathered(levels, codes & 255);
}

#if defined(__AVX512VBMI__)
/* The levels of a word's four codes; a plane has one byte of each level. Gathers take twice the time. */
INLINE void of_word(const uint8_t (*planes)[256], ints word, floats values[4]) {
    /* Of each four rows, their first codes, then their second ones, and so on. */
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i codes = _mm512_shuffle_epi8((__m512i)word, _mm512_broadcast_i32x4(order));
    __mmask64 upper = _mm512_movepi8_mask(codes);
    __m512i bytes[4];
#pragma GCC unroll 4
    for (int place = 0; place < 4; place++) {
        const uint8_t *plane = planes[place];
        __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(plane), codes,
                                               _mm512_loadu_si512(plane + 64));
        __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(plane + 128), codes,
                                                _mm512_loadu_si512(plane + 192));
        bytes[place] = _mm512_mask_blend_epi8(upper, low, high);
    }
    __m512i lower_01 = _mm512_unpacklo_epi8(bytes[0], bytes[1]);
    __m512i upper_01 = _mm512_unpackhi_epi8(bytes[0], bytes[1]);
    __m512i lower_23 = _mm512_unpacklo_epi8(bytes[2], bytes[3]);
    __m512i upper_23 = _mm512_unpackhi_epi8(bytes[2], bytes[3]);
    values[0] = (floats)_mm512_unpacklo_epi16(lower_01, lower_23);
    values[1] = (floats)_mm512_unpackhi_epi16(lower_01, lower_23);
    values[2] = (floats)_mm512_unpacklo_epi16(upper_01, upper_23);
    values[3] = (floats)_mm512_unpackhi_epi16(upper_01, upper_23);
}
#else
INLINE void of_word(const uint8_t (*planes)[256], ints word, floats values[4]) {
    (void)planes, (void)word, (void)values;
}
#endif

/* The codes themselves. */
INLINE floats of_none(const float *levels, ints codes) {
    (void)levels;
    return __builtin_convertvector(codes & 255, floats);
}

/* The inner product of two vectors. */
INLINE float inner(const float *a, const float *b, int64_t count) {
    floats sums[4] = {{0}};
    int64_t place = 0;
    for (int turn = 0; place + LANES <= count; place += LANES, turn = (turn + 1) & 3) {
        floats one, other;
        memcpy(&one, a + place, sizeof(one));
        memcpy(&other, b + place, sizeof(other));
        sums[turn] += one * other;
    }
    floats all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += all[lane];
    for (; place < count; place++) sum += a[place] * b[place];
    return sum;
}

/* Adds a tile's rows of an adapter: B (rows, rank) times what A gives. */
INLINE void add_adapter(const float *B, const float *inside, int64_t rank, int64_t rows,
                        int64_t tile, float *y) {
    ints places;
    for (int lane = 0; lane < LANES; lane++) {
        int64_t row = tile * LANES + lane;
        places[lane] = (int32_t)((row < rows ? row : rows - 1) * rank);
    }
    floats sum;
    memcpy(&sum, y + tile * LANES, sizeof(sum));
    for (int64_t place = 0; place < rank; place++) sum += gathered(B + place, places) * inside[place];
    memcpy(y + tile * LANES, &sum, sizeof(sum));
}

/* One tile; bits, what decodes, and whether there are zero points are constants where it is used. */
INLINE void tile_product(const struct weight *weight, int bits, floats (*levels_of)(const float *, ints),
                         int has_zeros, const uint8_t (*planes)[256], int64_t tile, const float *x,
                         float *y) {
    const int codes = 32 / bits;
    const int64_t columns = weight->columns, group = weight->group;
    const int32_t *words = weight->words + tile * (columns / codes) * LANES;
    int64_t groups = tile * (columns / group) * LANES;
    floats sums[4] = {{0}};
    for (int64_t first = 0; first < columns; first += group, groups += LANES) {
        floats scale, zero = {0};
        memcpy(&scale, weight->scales + groups, sizeof(scale));
        if (has_zeros) memcpy(&zero, weight->zeros + groups, sizeof(zero));
        for (int64_t column = first; column < first + group; column += codes, words += LANES) {
            ints word;
            memcpy(&word, words, sizeof(word));
            floats of_codes[4];
            if (planes) of_word(planes, word, of_codes);
#pragma GCC unroll 16
            for (int place = 0; place < codes; place++) {
                floats value = planes ? of_codes[place & 3]
                                      : levels_of(weight->levels, word >> (bits * place));
                if (has_zeros) value -= zero;
                sums[place % 4] += value * scale * x[column + place];
            }
        }
    }
    floats sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    memcpy(y + tile * LANES, &sum, sizeof(sum));
}

/* One tile, by the code for its weight; planes are for processors that permute bytes. */
static void any_tile(const struct weight *weight, const uint8_t (*planes)[256], int64_t tile,
                     const float *x, float *y) {
    const int bits = weight->bits;
    if (bits == 2 && weight->zeros) tile_product(weight, 2, of_few, 1, 0, tile, x, y);
    else if (bits == 2) tile_product(weight, 2, of_few, 0, 0, tile, x, y);
    else if (bits == 4 && weight->zeros) tile_product(weight, 4, of_few, 1, 0, tile, x, y);
    else if (bits == 4) tile_product(weight, 4, of_few, 0, 0, tile, x, y);
    else if (!weight->levels && weight->zeros) tile_product(weight, 8, of_none, 1, 0, tile, x, y);
    else if (!weight->levels) tile_product(weight, 8, of_none, 0, 0, tile, x, y);
#if defined(__AVX512VBMI__)
    else if (weight->zeros) tile_product(weight, 8, of_many, 1, planes, tile, x, y);
    else tile_product(weight, 8, of_many, 0, planes, tile, x, y);
#else
    else if (weight->zeros) tile_product(weight, 8, of_many, 1, 0, tile, x, y);
    else tile_product(weight, 8, of_many, 0, 0, tile, x, y);
#endif
}

/* Of tokens x (tokens, columns) to y (tokens, 16 * tiles), with the adapter A (rank, columns) and
   B (rows, rank); inside (tokens, rank) is for what is between them. A rank of 0 is none. */
void product(const struct weight *weight, const float *x, float *y, int64_t tokens, int threads,
             const float *A, const float *B, float *inside, int64_t rank, int64_t rows) {
    const int64_t columns = weight->columns, width = weight->tiles * LANES;
    uint8_t planes[4][256];
    (void)threads;
    if (weight->bits == 8 && weight->levels)
        for (int code = 0; code < 256; code++)
            for (int place = 0; place < 4; place++)
                planes[place][code] = ((const uint8_t *)(weight->levels + code))[place];
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t place = 0; place < rank; place++)
            inside[token * rank + place] = inner(A + place * columns, x + token * columns, columns);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t tile = 0; tile < weight->tiles; tile++)
        for (int64_t token = 0; token < tokens; token++) {
            float *out = y + token * width;
            any_tile(weight, planes, tile, x + token * columns, out);
            if (rank) add_adapter(B, inside + token * rank, rank, rows, tile, out);
        }
}
