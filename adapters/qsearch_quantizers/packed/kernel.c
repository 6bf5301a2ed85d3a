/* The product of some tokens with a weight that stays in codes, which are decoded in registers:

       y[row] = sum over columns of ((levels[code] - zero) * scale) * x[column]

   in float32, so that a weight is to the bit what dequantizing gives; the order of the sum is its own.

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

/* Levels of codes below 16. */
static inline __attribute__((always_inline)) floats of_few(const float *levels, ints codes) {
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
    for (int lane = 0; lane < LANES; lane++) values[lane] = levels[codes[lane]];
#endif
    return values;
}

static inline __attribute__((always_inline)) floats of_many(const float *levels, ints codes) {
    floats values;
#if defined(__AVX512F__)
    values = (floats)_mm512_i32gather_ps((__m512i)codes, levels, 4);
#else
    for (int lane = 0; lane < LANES; lane++) values[lane] = levels[codes[lane]];
#endif
    return values;
}

/* The codes themselves; levels are not read. */
static inline __attribute__((always_inline)) floats of_none(const float *levels, ints codes) {
    (void)levels;
    return __builtin_convertvector(codes, floats);
}

#define PRODUCT(NAME, BITS, LEVELS_OF)                                                             \
    static void NAME(const int32_t *words, const float *scales, const float *zeros,               \
                     const float *levels, const float *x, float *y, int64_t tiles,                \
                     int64_t columns, int64_t group, int threads) {                               \
        enum { CODES = 32 / BITS };                                                               \
        (void)threads;                                                                            \
        _Pragma("omp parallel for schedule(static) num_threads(threads)")                         \
        for (int64_t tile = 0; tile < tiles; tile++) {                                            \
            const int32_t *word_at = words + tile * (columns / CODES) * LANES;                    \
            int64_t groups = tile * (columns / group) * LANES;                                    \
            floats sums[4] = {{0}};                                                               \
            for (int64_t first = 0; first < columns; first += group, groups += LANES) {           \
                floats scale, zero = {0};                                                         \
                memcpy(&scale, scales + groups, sizeof(scale));                                   \
                if (zeros) memcpy(&zero, zeros + groups, sizeof(zero));                           \
                for (int64_t column = first; column < first + group; column += CODES) {           \
                    ints word;                                                                    \
                    memcpy(&word, word_at, sizeof(word));                                         \
                    word_at += LANES;                                                             \
                    _Pragma("GCC unroll 16")                                                      \
                    for (int place = 0; place < CODES; place++) {                                 \
                        ints codes = (word >> (BITS * place)) & ((1 << BITS) - 1);                \
                        floats weight = (LEVELS_OF(levels, codes) - zero) * scale;                \
                        sums[place % 4] += weight * x[column + place];                            \
                    }                                                                             \
                }                                                                                 \
            }                                                                                     \
            floats sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);                               \
            memcpy(y + tile * LANES, &sum, sizeof(sum));                                          \
        }                                                                                         \
    }

PRODUCT(product_2, 2, of_few)
PRODUCT(product_4, 4, of_few)
PRODUCT(product_8, 8, of_many)
PRODUCT(product_whole, 8, of_none)

/* Of one token: x (columns) and y (16 * tiles). Levels are 16 for 2 and 4 bits, 256 for 8 bits, or
   null where codes of 8 bits are levels. */
void product(int bits, const int32_t *words, const float *scales, const float *zeros,
             const float *levels, const float *x, float *y, int64_t tiles, int64_t columns,
             int64_t group, int threads) {
    if (bits == 2) product_2(words, scales, zeros, levels, x, y, tiles, columns, group, threads);
    else if (bits == 4) product_4(words, scales, zeros, levels, x, y, tiles, columns, group, threads);
    else if (levels) product_8(words, scales, zeros, levels, x, y, tiles, columns, group, threads);
    else product_whole(words, scales, zeros, levels, x, y, tiles, columns, group, threads);
}
