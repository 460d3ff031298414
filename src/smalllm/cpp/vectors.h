// Vectors of 16 numbers, and matrices for them.
#pragma once
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

constexpr int LANES = 16;
#ifdef __AVX512F__
constexpr int MOST_ROWS = 16, MANY_ROWS = 8;
#else
constexpr int MOST_ROWS = 2, MANY_ROWS = 2;
#endif
constexpr int PREFETCH_BYTES = 8192;  // how far ahead weights are brought to the cache

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

enum Kind { FP32 = 0, BF16 = 1, INT8 = 2 };

struct Matrix {
    const void *weight;
    const float *scale, *bias;
    int64_t n_out, n_in;
};
namespace {

inline Vec load(const float *at) {
    Vec v;
    std::memcpy(&v, at, sizeof v);
    return v;
}
#ifdef __AVX512F__  // GCC 12 makes of each of these many instructions where there are two
inline Vec load(const uint16_t *at) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at));
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}
inline Vec load(const int8_t *at) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(at));
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
#else
inline Vec load(const uint16_t *at) {
    Halves v;
    std::memcpy(&v, at, sizeof v);
    return (Vec)(__builtin_convertvector(v, Words) << 16);  // the bits, not the numbers
}
inline Vec load(const int8_t *at) {
    Bytes v;
    std::memcpy(&v, at, sizeof v);
    return __builtin_convertvector(__builtin_convertvector(v, Ints), Vec);
}
#endif
inline void store(float *at, Vec v) { std::memcpy(at, &v, sizeof v); }

// Have so many vectors brought to the cache.
template <int N, class C>
inline void fetch(const C *at) {
#pragma GCC unroll 8
    for (unsigned i = 0; i < N * LANES * sizeof(C); i += 64) __builtin_prefetch(reinterpret_cast<const char *>(at) + i);
}

inline void put(float *at, float x) { *at = x; }
inline void put(uint16_t *at, float x) {  // to the nearest, ties to even; a number that is none stays none
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    *at = x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Cody and Waite's reduction and the Taylor polynomial of degree 6: within 2 ulp.
inline Vec exp_of(Vec x) {
    x = x < -87.0f ? Vec{} - 87.0f : x > 88.0f ? Vec{} + 88.0f : x;
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer, which lands in the low bits
    const Vec n = shifted - 12582912.0f;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = r * (1.0f / 720.0f) + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (Vec)((__builtin_convertvector(n, Ints) + 127) << 23);
}

struct Share {
    int64_t first, last;
};
inline Share share(int64_t n, int thread, int n_threads) {
    return {n * thread / n_threads, n * (thread + 1) / n_threads};
}

}  // namespace
