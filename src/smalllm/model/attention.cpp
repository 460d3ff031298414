// Causal attention and its gradients in the matrix unit of Intel's server CPUs: BF16 in and out, FP32 between.
//
// Called by `tile_attention.py`. A thread takes a head of keys and values, with all heads of queries that share it; with
// fewer such heads in a batch than threads, some have nothing to do. What it works with, 30 bytes for each number of
// such a head, lies in the cache of its core up to about 1,000 positions, in rows that are zero past the last one, so
// that sizes are multiples of 32 (`matrices.h`). Every number is computed alike however many threads there are.
//
// Source: Dao 2023 (FlashAttention-2), for the order of the gradients; dropout as in `dropout.py`.
#include <omp.h>

#include <cmath>

#include "../cpp/matrices.h"

constexpr int64_t BLOCK = 128;  // queries and keys whose gradients are added at once

// A tensor [B H T K], K without gaps.
struct Heads {
    uint16_t *at;
    int64_t batch_stride, head_stride, row_stride;
    uint16_t *head(int64_t batch, int64_t number) const { return at + batch * batch_stride + number * head_stride; }
};

struct Attention {
    int64_t n_batch, n_heads, n_kv_heads, n_positions, d_head, n_threads;
    const uint8_t *mask;  // [B T T], what each query sees; absent: itself and all before it
    const int32_t *key;   // two numbers that decide what is dropped; absent: nothing
    int64_t threshold;    // hashes below it are dropped
    double share;         // what is kept is multiplied by
    Heads q, k, v, y, grad_y, grad_q, grad_k, grad_v;
    float *logsumexp;  // [B H T]
};

// Whether this machine has the unit, and the system lets us use it.
extern "C" int64_t has_tiles() { return may_use_tiles(); }

#ifdef HAS_TILES
namespace {

// A head of queries.
struct Head {
    const Attention &a;
    int64_t batch, number, n, width;  // n: positions, up to a multiple of 32
    float scale, share;
    Head(const Attention &a, int64_t batch, int64_t number)
        : a(a), batch(batch), number(number), n((a.n_positions + SIDE - 1) / SIDE * SIDE), width(a.d_head),
          scale(1.0f / std::sqrt(static_cast<float>(a.d_head))), share(static_cast<float>(a.share)) {}

    float *logsumexp() const { return a.logsumexp + (batch * a.n_heads + number) * a.n_positions; }

    // Which of the keys j .. j + 15 the query i sees.
    __mmask16 seen(int64_t i, int64_t j) const {
        if (i >= a.n_positions || j > i) return 0;
        const __mmask16 causal = i - j >= 15 ? 0xffff : (2u << (i - j)) - 1;
        if (!a.mask) return causal;
        const uint8_t *row = a.mask + (batch * a.n_positions + i) * a.n_positions + j;
        const __m128i bytes = _mm_maskz_loadu_epi8(causal, row);
        return _mm_test_epi8_mask(bytes, bytes);
    }

    // Which of the weights of a query on the keys j .. j + 15 are kept.
    __mmask16 kept(int64_t i, int64_t j) const {
        const int64_t first = ((batch * a.n_heads + number) * a.n_positions + i) * a.n_positions + j;
        const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        __m512i x = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(first)), lanes);
        x = _mm512_xor_si512(x, _mm512_set1_epi32(a.key[0]));
        x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), _mm512_set1_epi32(0x7FEB352D));
        x = _mm512_add_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)), _mm512_set1_epi32(a.key[1]));
        x = _mm512_mullo_epi32(x, _mm512_set1_epi32(static_cast<int32_t>(0x846CA68B)));
        x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
        return _mm512_cmpge_epi32_mask(x, _mm512_set1_epi32(static_cast<int32_t>(a.threshold)));
    }

    // Exponentials of a query's scores less the largest, as BF16; returns their sum, and the largest in `most`.
    float soften(int64_t i, const float *scores, int64_t n_keys, uint16_t *weights, float &most) const {
        __m512 largest = _mm512_set1_ps(-INFINITY);
        for (int64_t j = 0; j < n_keys; j += LANES)
            largest = _mm512_mask_max_ps(largest, seen(i, j), largest, load(scores + j));
        most = _mm512_reduce_max_ps(largest);
        Vec sums = {};
        for (int64_t j = 0; j < n_keys; j += LANES) {
            Vec some = _mm512_maskz_mov_ps(seen(i, j), exp_of((load(scores + j) - most) * scale));
            sums += some;
            if (a.key) some = _mm512_maskz_mov_ps(kept(i, j), some * share);
            store16(weights + j, rounded(some));
        }
        return _mm512_reduce_add_ps(sums);
    }

    // From the scores of a query on 16 keys and the gradients of its weights: the weights that are used, and the
    // gradients of the scores. `delta` is the sum of a query's weights times their gradients.
    void differentiate(int64_t i, int64_t j, const float *scores, const float *grad_weights, float logsumexp,
                       float delta, Vec &used, Vec &grad_scores) const {
        const Vec weights = _mm512_maskz_mov_ps(seen(i, j), exp_of(load(scores) * scale - logsumexp));
        Vec grads = load(grad_weights);
        used = weights;
        if (a.key) {
            const __mmask16 stay = kept(i, j);
            used = _mm512_maskz_mov_ps(stay, weights * share);
            grads = _mm512_maskz_mov_ps(stay, grads * share);
        }
        grad_scores = weights * (grads - delta) * scale;
    }
};

// A tensor's rows of a head from `first` on, and rows of zeros after its last.
void copy(const Head &h, const uint16_t *from, int64_t row_stride, int64_t first, Halves to, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (first + i < h.a.n_positions)
            std::memcpy(to.row(i), from + (first + i) * row_stride, h.width * 2);
        else
            std::memset(to.row(i), 0, h.width * 2);
}

void write(const Head &h, uint16_t *to, int64_t row_stride, Floats from, bool is_turned) {
    __m512i rows[16];
    for (int64_t i = 0; i < h.a.n_positions; i += 16)
        for (int64_t d = 0; d < h.width; d += 16) {
            if (is_turned)
                load_turned(rows, words(from), d, i);
            else
                for (int r = 0; r < 16; r++) rows[r] = _mm512_loadu_si512(from.row(i + r) + d);
            for (int64_t r = 0; r < std::min<int64_t>(16, h.a.n_positions - i); r++)
                store16(to + (i + r) * row_stride + d, rounded((Vec)rows[r]));
        }
}

void clear(Floats x, int64_t n_rows) { std::memset(x.at, 0, n_rows * x.stride * sizeof(float)); }

void forward_heads(const Attention &a, int64_t batch, int64_t group) {
    const int64_t n_group = a.n_heads / a.n_kv_heads;
    const Head first(a, batch, group * n_group);
    const int64_t n = first.n, width = first.width;
    room.clear();
    const Halves rows = room.grid<uint16_t>(n, width), q = room.grid<uint16_t>(SIDE, width);
    const Halves weights = room.grid<uint16_t>(SIDE, n);
    const Pairs k_turned = room.grid<uint32_t>(width / 2, n), v_pairs = room.grid<uint32_t>(n / 2, width);
    const Floats scores = room.grid<float>(SIDE, n), mixed = room.grid<float>(SIDE, width);
    copy(first, a.k.head(batch, group), a.k.row_stride, 0, rows, n);
    transpose(k_turned, words(rows), n, width / 2);
    copy(first, a.v.head(batch, group), a.v.row_stride, 0, rows, n);
    pair_rows(v_pairs, rows, n, width);
    for (int64_t number = first.number; number < first.number + n_group; number++)
        for (int64_t start = 0; start < n; start += SIDE) {
            const Head head(a, batch, number);
            const int64_t stop = start + SIDE;
            float sums[SIDE], most[SIDE];
            copy(head, a.q.head(batch, number), a.q.row_stride, start, q, SIDE);
            multiply<false>(scores, q, k_turned, SIDE, stop, width);
            for (int64_t r = 0; r < SIDE; r++)
                sums[r] = head.soften(start + r, scores.row(r), stop, weights.row(r), most[r]);
            multiply<false>(mixed, weights, v_pairs, SIDE, width, stop);
            for (int64_t r = 0; r < std::min(SIDE, a.n_positions - start); r++) {
                head.logsumexp()[start + r] = most[r] * head.scale + std::log(sums[r]);
                uint16_t *y = a.y.head(batch, number) + (start + r) * a.y.row_stride;
                for (int64_t d = 0; d < width; d += LANES)
                    store16(y + d, rounded(load(mixed.row(r) + d) * (1.0f / sums[r])));
            }
        }
}

// The weights of a square of scores and the gradients of these, as pairs of queries; the gradients as rows too.
void square(const Head &h, int64_t i, int64_t j, Floats scores, Floats grad_weights, const float *logsumexp,
            const float *delta, Pairs used, Pairs grad_pairs, Halves grad_rows) {
    const __m512i alternate = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t r = 0; r < SIDE; r += 2)
        for (int64_t c = 0; c < SIDE; c += LANES) {
            Vec weights[2], grads[2];
            for (int64_t s = 0; s < 2; s++)
                h.differentiate(i + r + s, j + c, scores.row(r + s) + c, grad_weights.row(r + s) + c,
                                logsumexp[i + r + s], delta[i + r + s], weights[s], grads[s]);
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(weights[1], weights[0]);
            const __m512i both_grads = (__m512i)_mm512_cvtne2ps_pbh(grads[1], grads[0]);
            _mm512_storeu_si512(used.row(r / 2) + c, _mm512_permutexvar_epi16(alternate, both));
            _mm512_storeu_si512(grad_pairs.row(r / 2) + c, _mm512_permutexvar_epi16(alternate, both_grads));
            store16(grad_rows.row(r) + c, _mm512_castsi512_si256(both_grads));
            store16(grad_rows.row(r + 1) + c, _mm512_extracti64x4_epi64(both_grads, 1));
        }
}

void backward_heads(const Attention &a, int64_t batch, int64_t group) {
    const int64_t n_group = a.n_heads / a.n_kv_heads;
    const Head first(a, batch, group * n_group);
    const int64_t n = first.n, width = first.width;
    room.clear();
    const Halves q = room.grid<uint16_t>(n, width), grad_y = room.grid<uint16_t>(n, width);
    const Halves rows = room.grid<uint16_t>(n, width), grad_rows = room.grid<uint16_t>(BLOCK, BLOCK);
    const Pairs pairs = room.grid<uint32_t>(n / 2, width), k_pairs = room.grid<uint32_t>(n / 2, width);
    const Pairs k_turned = room.grid<uint32_t>(width / 2, n), v_turned = room.grid<uint32_t>(width / 2, n);
    const Pairs q_turned = room.grid<uint32_t>(width, n / 2), grad_y_turned = room.grid<uint32_t>(width, n / 2);
    const Pairs used = room.grid<uint32_t>(BLOCK / 2, BLOCK), grad_pairs = room.grid<uint32_t>(BLOCK / 2, BLOCK);
    const Floats grad_q = room.grid<float>(n, width), grad_k = room.grid<float>(width, n);
    const Floats grad_v = room.grid<float>(width, n);  // this and grad_k on their side, [K T]
    const Floats scores = room.grid<float>(SIDE, SIDE), grad_weights = room.grid<float>(SIDE, SIDE);
    float *delta = room.grid<float>(1, n).at, *logsumexp = room.grid<float>(1, n).at;
    copy(first, a.v.head(batch, group), a.v.row_stride, 0, rows, n);
    transpose(v_turned, words(rows), n, width / 2);
    copy(first, a.k.head(batch, group), a.k.row_stride, 0, rows, n);
    transpose(k_turned, words(rows), n, width / 2);
    pair_rows(k_pairs, rows, n, width);
    clear(grad_k, width);
    clear(grad_v, width);
    for (int64_t number = first.number; number < first.number + n_group; number++) {
        const Head head(a, batch, number);
        copy(head, a.q.head(batch, number), a.q.row_stride, 0, q, n);
        pair_rows(pairs, q, n, width);
        transpose(q_turned, pairs, n / 2, width);
        copy(head, a.grad_y.head(batch, number), a.grad_y.row_stride, 0, grad_y, n);
        pair_rows(pairs, grad_y, n, width);
        transpose(grad_y_turned, pairs, n / 2, width);
        copy(head, a.y.head(batch, number), a.y.row_stride, 0, rows, n);
        for (int64_t i = 0; i < n; i++) {
            Vec sums = {};
            for (int64_t d = 0; d < width; d += LANES) sums += load(rows.row(i) + d) * load(grad_y.row(i) + d);
            delta[i] = _mm512_reduce_add_ps(sums);
            logsumexp[i] = i < a.n_positions ? head.logsumexp()[i] : 0.0f;
        }
        clear(grad_q, n);
        for (int64_t key = 0; key < n; key += BLOCK)
            for (int64_t query = key; query < n; query += BLOCK) {
                const int64_t n_keys = std::min(BLOCK, n - key), n_queries = std::min(BLOCK, n - query);
                for (int64_t i = 0; i < n_queries; i += SIDE)
                    for (int64_t j = 0; j < n_keys; j += SIDE) {
                        multiply<false>(scores, q.from(query + i, 0), k_turned.from(0, key + j), SIDE, SIDE, width);
                        multiply<false>(grad_weights, grad_y.from(query + i, 0), v_turned.from(0, key + j), SIDE, SIDE,
                                        width);
                        square(head, query + i, key + j, scores, grad_weights, logsumexp, delta, used.from(i / 2, j),
                               grad_pairs.from(i / 2, j), grad_rows.from(i, j));
                    }
                multiply<true>(grad_v.from(0, key), halves(grad_y_turned).from(0, query), used, width, n_keys,
                               n_queries);
                multiply<true>(grad_k.from(0, key), halves(q_turned).from(0, query), grad_pairs, width, n_keys,
                               n_queries);
                multiply<true>(grad_q.from(query, 0), grad_rows, k_pairs.from(key / 2, 0), n_queries, width, n_keys);
            }
        write(head, a.grad_q.head(batch, number), a.grad_q.row_stride, grad_q, false);
    }
    write(first, a.grad_k.head(batch, group), a.grad_k.row_stride, grad_k, true);
    write(first, a.grad_v.head(batch, group), a.grad_v.row_stride, grad_v, true);
}

template <class Work>
void each_group(const Attention &a, Work work) {
#pragma omp parallel num_threads(a.n_threads)
    {
        begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < a.n_batch * a.n_kv_heads; unit++)
            work(a, unit / a.n_kv_heads, unit % a.n_kv_heads);
        end_tiles();
    }
}

}  // namespace

// y and logsumexp of q, k and v.
extern "C" void forward(const Attention *a) { each_group(*a, forward_heads); }

// The gradients of q, k and v, from that of y.
extern "C" void backward(const Attention *a) { each_group(*a, backward_heads); }
#endif
