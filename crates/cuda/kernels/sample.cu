// The next token of a row of logits, by the rules and to the bit of the host's sampler: weights are made of IEEE
// additions and products in the same order, sums of 64 of them are added as integers, which knows no order.
// A row is shared by a team: a cluster of 8 blocks with the weights in shared memory, or a block alone before sm_90,
// with the weights in memory of their own: the logits are only read.
#include "wide_row.cuh"

typedef unsigned long long u64;

// One row's wishes; lists are at word offsets from the start of all rows' words.
struct Row {
    float inverse;  // 1 / temperature; 0 takes the likeliest
    float top_p, min_p;
    unsigned top_k;
    double point;
    float repetition, frequency, presence;
    unsigned seen, seen_count;      // pairs: id, times generated
    unsigned bias, bias_count;      // pairs: id, f32
    unsigned banned, banned_count;  // ids
    unsigned mask, mask_words;      // bits; ~0: all allowed
    unsigned number;                // of the row of logits
};
static_assert(sizeof(Row) == 72, "as the host lays it out");

// What stands for no token, as the host knows it.
constexpr unsigned NOT_A_NUMBER = ~0u, NOTHING_ALLOWED = ~0u - 1;
// Tokens in a block of weights; candidates that are sorted.
constexpr int BLOCK = 64, ENOUGH = 2048;
constexpr int THREADS = 512, GROUPS = THREADS / 8, WARPS = THREADS / 32;
constexpr unsigned LEAST = 0x00800000u, ONE = 0x3f800000u, FIRST_GUESS = 0x39800000u;  // 2^-126, 1, 2^-12
constexpr double UNIT = 1099511627776.0;                                             // 2^40

__device__ __forceinline__ u64 units(double sum) { return __double2ull_rz(__dmul_rn(sum, UNIT)); }

__device__ __forceinline__ u64 key_of(float weight, unsigned id) {
    return static_cast<u64>(__float_as_uint(weight)) << 32 | static_cast<unsigned>(~id);
}

__device__ __forceinline__ float weight_of(u64 key) { return __uint_as_float(static_cast<unsigned>(key >> 32)); }

// Orders logits by value, then the smaller id; what is no number, or too large for one, is above all.
__device__ __forceinline__ u64 rank_of(float x, unsigned id) {
    if (isnan(x) || x == INFINITY) return ~0ull;
    unsigned bits = __float_as_uint(x + 0.f);
    return static_cast<u64>(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | static_cast<unsigned>(~id);
}

__device__ __forceinline__ float value_of(u64 rank) {
    unsigned ordered = static_cast<unsigned>(rank >> 32);
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

// e to a power of at most 0: the host's `exp`, operation by operation.
__device__ __forceinline__ float exp_of(float x) {
    const float magic = 12582912.f;
    float clamped = x > -86.f ? x : -86.f;
    float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504f), magic);
    float n = __fsub_rn(shifted, magic);
    float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, -2.1219444e-4f));
    float p = 1.f / 5040.f;
    const float c[7] = {1.f / 720.f, 1.f / 120.f, 1.f / 24.f, 1.f / 6.f, 0.5f, 1.f, 1.f};
#pragma unroll
    for (int i = 0; i < 7; i++) p = __fadd_rn(__fmul_rn(p, r), c[i]);
    float scaled = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
    return x > -86.f ? scaled : 0.f;
}

// A sum and a count that add, or a rank of which the largest stays.
struct Tally {
    u64 value;
    unsigned count;
};

template <bool MAX>
__device__ __forceinline__ Tally join(Tally a, Tally b) {
    return MAX ? Tally{a.value > b.value ? a.value : b.value, 0} : Tally{a.value + b.value, a.count + b.count};
}

struct Shared {
    Tally warps[WARPS];
    Tally team[2][8];
    u64 cutoff;
    unsigned gathered;
    u64 keys[ENOUGH];
};

template <int C>
struct Team {
    Shared& shared;
    float* w;        // weights, STRIDE apart for each block
    u64* masses;     // sum of each block
    unsigned v, first, blocks;  // width of the row; this member's blocks of weights
    unsigned turn;

    // Blocks in shared memory start at different banks.
    static constexpr int STRIDE = C > 1 ? BLOCK + 8 : BLOCK;

    __device__ __forceinline__ unsigned rank() const {
        unsigned rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        if (C > 1) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
        return rank;
    }

    __device__ __forceinline__ void arrive() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        if (C > 1) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
    }

    __device__ __forceinline__ void wait() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        if (C > 1) {
            asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
            return;
        }
#endif
        __syncthreads();
    }

    // Writes a word pair to a member's shared memory, where it lies as in one's own.
    __device__ __forceinline__ void put(u64* to, unsigned member, u64 value) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        if (C > 1) {
            unsigned own = static_cast<unsigned>(__cvta_generic_to_shared(to)), there;
            asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(own), "r"(member));
            asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(there), "l"(value) : "memory");
            return;
        }
#endif
        *to = value;
    }

    // The tally of all threads of the team, in every thread; `before`: of the members before this one.
    template <bool MAX>
    __device__ __forceinline__ Tally reduce(Tally t, Tally* before = nullptr) {
        for (int step = 16; step > 0; step /= 2) {
            Tally other = {__shfl_xor_sync(~0u, t.value, step), __shfl_xor_sync(~0u, t.count, step)};
            t = join<MAX>(t, other);
        }
        unsigned lane = threadIdx.x % 32;
        if (lane == 0) shared.warps[threadIdx.x / 32] = t;
        __syncthreads();
        turn ^= 1;
        if (threadIdx.x < 32) {
            Tally sum = lane < WARPS ? shared.warps[lane] : Tally{0, 0};
            for (int step = 16; step > 0; step /= 2) {
                Tally other = {__shfl_xor_sync(~0u, sum.value, step), __shfl_xor_sync(~0u, sum.count, step)};
                sum = join<MAX>(sum, other);
            }
            if (lane < C) {
                put(&shared.team[turn][rank()].value, lane, sum.value);
                put(reinterpret_cast<u64*>(&shared.team[turn][rank()].count), lane, sum.count);
            }
        }
        arrive();
        wait();
        Tally all = {0, 0};
#pragma unroll
        for (unsigned i = 0; i < C; i++) {
            if (before && i == rank()) *before = all;
            all = join<MAX>(all, shared.team[turn][i]);
        }
        return all;
    }

    __device__ __forceinline__ unsigned id_of(unsigned block, unsigned i) const { return (first + block) * BLOCK + i; }

    // Tokens of a block: all have BLOCK but the row's last.
    __device__ __forceinline__ unsigned length(unsigned block) const { return min(v - id_of(block, 0), static_cast<unsigned>(BLOCK)); }

    // Eight threads take a block; `body(block, lane, active)` runs in all threads of a warp together.
    template <class Body>
    __device__ __forceinline__ void each_block(Body body) const {
        for (unsigned start = 0; start < blocks; start += GROUPS) {
            unsigned block = start + threadIdx.x / 8;
            body(block, threadIdx.x % 8, block < blocks);
        }
    }

    // The mass of a block's weights that are `kept(weight, id)`, in the host's order, in all of its eight threads; and how
    // many they are, in parts.
    template <class Kept>
    __device__ __forceinline__ Tally mass_of(unsigned block, unsigned lane, bool active, Kept kept) const {
        float sum = 0.f;
        unsigned count = 0, n = active ? length(block) : 0;
        const float* from = w + block * STRIDE;
        for (unsigned i = lane; i < n / 8 * 8; i += 8) {
            float x = from[i];
            bool in = kept(x, id_of(block, i));
            sum = __fadd_rn(sum, in ? x : 0.f), count += in;
        }
        for (int step = 4; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, step));
        double rest = 0.0;
        for (unsigned i = n / 8 * 8; i < n; i++) {
            float x = from[i];
            bool in = kept(x, id_of(block, i));
            if (in) rest = __dadd_rn(rest, x);
            count += in && lane == 0;
        }
        return {units(__dadd_rn(sum, rest)), count};
    }

    // The mass and the number of all weights that are kept; the blocks' masses stay.
    template <class Kept>
    __device__ __forceinline__ Tally mass(Kept kept, Tally* before = nullptr) {
        Tally sum = {0, 0};
        each_block([&](unsigned block, unsigned lane, bool active) {
            Tally t = mass_of(block, lane, active, kept);
            if (active && lane == 0) masses[block] = t.value, sum.value += t.value;
            sum.count += t.count;
        });
        return reduce<false>(sum, before);
    }

    __device__ __forceinline__ Tally above(unsigned bits) {
        return mass([&](float x, unsigned) { return __float_as_uint(x) >= bits; });
    }

    // Sorts what was gathered, falling; in one block.
    __device__ __forceinline__ void sort(unsigned n) const {
        for (unsigned size = 2; size <= n; size *= 2) {
            for (unsigned step = size / 2; step > 0; step /= 2) {
                __syncthreads();
                for (unsigned pair = threadIdx.x; pair < n / 2; pair += THREADS) {
                    unsigned i = pair / step * 2 * step + pair % step, j = i + step;
                    u64 a = shared.keys[i], b = shared.keys[j];
                    if ((a < b) == ((i & size) == 0)) shared.keys[i] = b, shared.keys[j] = a;
                }
            }
        }
        __syncthreads();
    }

    // Hands a number from the first member to all.
    __device__ __forceinline__ u64 from_first(u64 value) {
        if (rank() == 0 && threadIdx.x < C) put(&shared.cutoff, threadIdx.x, value);
        arrive();
        wait();
        u64 all = shared.cutoff;
        arrive();
        wait();
        return all;
    }

    // Of the kept keys, which are at most ENOUGH, falling: the one at which the mass reaches `limit`, or the `nth` from 1 if
    // that is not 0; the last if there is none such.
    template <class Kept>
    __device__ __forceinline__ u64 pick(Kept kept, u64 limit, unsigned nth) {
        unsigned own = 0;
        each_block([&](unsigned block, unsigned lane, bool active) {
            for (unsigned i = lane; active && i < length(block); i += 8) own += kept(w[block * STRIDE + i], id_of(block, i));
        });
        if (threadIdx.x == 0) shared.gathered = 0;
        Tally before, all = reduce<false>({0, own}, &before);
        each_block([&](unsigned block, unsigned lane, bool active) {
            for (unsigned i = lane; active && i < length(block); i += 8) {
                float x = w[block * STRIDE + i];
                if (!kept(x, id_of(block, i))) continue;
                put(&shared.keys[before.count + atomicAdd(&shared.gathered, 1u)], 0, key_of(x, id_of(block, i)));
            }
        });
        arrive();
        wait();
        u64 found = 0;
        if (rank() == 0) {
            unsigned n = 2;
            while (n < all.count) n *= 2;
            for (unsigned i = all.count + threadIdx.x; i < n; i += THREADS) shared.keys[i] = 0;
            sort(n);
            found = all.count == 0 ? 0 : shared.keys[nth ? min(nth, all.count) - 1 : reached(all.count, limit)];
        }
        return from_first(found);
    }

    // Where the masses of sorted keys reach `limit`. Every warp does the same.
    __device__ __forceinline__ unsigned reached(unsigned n, u64 limit) const {
        unsigned lane = threadIdx.x % 32;
        u64 before = 0;
        for (unsigned start = 0; start < n; start += 32) {
            u64 sum = start + lane < n ? units(weight_of(shared.keys[start + lane])) : 0;
            for (int step = 1; step < 32; step *= 2) {
                u64 below = __shfl_up_sync(~0u, sum, step);
                if (lane >= step) sum += below;
            }
            unsigned over = __ballot_sync(~0u, start + lane < n && before + sum >= limit);
            if (over) return start + __ffs(over) - 1;
            before += __shfl_sync(~0u, sum, 31);
        }
        return n - 1;
    }

    // The key of the `nth` token, by id from 1, of those with exactly this weight; the last if there are fewer.
    __device__ __forceinline__ u64 nth_equal(unsigned bits, u64 nth) {
        Tally before, all = mass([&](float x, unsigned) { return __float_as_uint(x) == bits; }, &before);
        if (nth > all.count) nth = all.count;
        // Few rows get here: one thread walks the member's tokens.
        if (threadIdx.x == 0) {
            u64 at = before.count;
            bool mine = false;
            u64 key = 0;
            for (unsigned block = 0; block < blocks && !mine; block++) {
                for (unsigned i = 0; i < length(block) && !mine; i++) {
                    mine = __float_as_uint(w[block * STRIDE + i]) == bits && ++at == nth;
                    if (mine) key = key_of(__uint_as_float(bits), id_of(block, i));
                }
            }
            if (mine) {
                for (unsigned member = 0; member < C; member++) put(&shared.cutoff, member, key);
            }
        }
        arrive();
        wait();
        u64 key = shared.cutoff;
        arrive();
        wait();
        return key;
    }

    // Weights between which a search for a threshold has ended, and what is from the upper one up.
    struct Bracket {
        unsigned low, high, inside;
        Tally before;
    };

    // Halves the range of bits until few tokens are inside, or equals alone. `enough(tally)`: those above suffice.
    template <class Suffices>
    __device__ __forceinline__ Bracket bracket(unsigned above_low, Suffices enough) {
        unsigned low = LEAST, high = ONE + 1, middle = FIRST_GUESS;
        Tally before = {0, 0};
        while (above_low - before.count > ENOUGH && high - low > 1) {
            Tally t = above(middle);
            if (enough(t)) {
                low = middle, above_low = t.count;
            } else {
                high = middle, before = t;
            }
            middle = low + (high - low) / 2;
        }
        return {low, high, above_low - before.count, before};
    }

    __device__ __forceinline__ u64 between(const Bracket& b, u64 limit, unsigned nth) {
        auto inside = [&](float x, unsigned) { return __float_as_uint(x) >= b.low && __float_as_uint(x) < b.high; };
        return pick(inside, limit, nth);
    }

    // The key of the k-th likeliest; 0 if fewer have a weight.
    __device__ __forceinline__ u64 kth(unsigned k) {
        unsigned positive = above(LEAST).count;
        if (positive < k) return 0;
        Bracket b = bracket(positive, [&](Tally t) { return t.count >= k; });
        unsigned nth = k - b.before.count;
        return b.inside > ENOUGH ? nth_equal(b.low, nth) : between(b, 0, nth);
    }

    // The key of the last of the likeliest tokens that together reach `top_p` of the mass from `cutoff` up.
    __device__ __forceinline__ u64 nucleus(float top_p, u64 cutoff) {
        auto kept = [&](float x, unsigned id) { return x > 0.f && key_of(x, id) >= cutoff; };
        u64 all = mass(kept).value;
        u64 limit = __double2ull_ru(__dmul_rn(top_p, __ull2double_rn(all)));
        if (cutoff > 0) return pick(kept, limit, 0);
        Bracket b = bracket(v, [&](Tally t) { return t.value >= limit; });
        limit -= b.before.value;
        if (b.inside <= ENOUGH) return between(b, limit, 0);
        if (b.high - b.low > 1) return 0;
        u64 each = units(__uint_as_float(b.low));
        return nth_equal(b.low, each ? (limit + each - 1) / each : ~0ull);
    }

    // The token at `point` of the mass from `cutoff` up, by id: written by the member that has it.
    __device__ __forceinline__ void draw(u64 cutoff, double point, unsigned* out) {
        auto kept = [&](float x, unsigned id) { return x > 0.f && key_of(x, id) >= cutoff; };
        Tally before, all = mass(kept, &before);
        u64 left = __double2ull_rz(__dmul_rn(point, __ull2double_rn(all.value)));
        if (left >= all.value) left = all.value - 1;
        if (threadIdx.x >= 32 || left < before.value) return;
        left -= before.value;
        unsigned lane = threadIdx.x;
        // The masses that this member's threads have written are visible since the reduction.
        for (unsigned start = 0; start < blocks; start += 32) {
            u64 own = start + lane < blocks ? masses[start + lane] : 0, sum = own;
            for (int step = 1; step < 32; step *= 2) {
                u64 below = __shfl_up_sync(~0u, sum, step);
                if (lane >= step) sum += below;
            }
            unsigned over = __ballot_sync(~0u, sum > left);
            if (over) {
                int at = __ffs(over) - 1;
                return draw_in(start + at, left - __shfl_sync(~0u, sum - own, at), kept, out);
            }
            left -= __shfl_sync(~0u, sum, 31);
        }
    }

    // In a warp: the token that `left` units of the block lie before; the last one kept if there is none.
    template <class Kept>
    __device__ __forceinline__ void draw_in(unsigned block, u64 left, Kept kept, unsigned* out) const {
        unsigned lane = threadIdx.x, last = id_of(block, 0);
        u64 before = 0;
        for (unsigned half = 0; half < BLOCK; half += 32) {
            unsigned i = half + lane;
            float x = i < length(block) ? w[block * STRIDE + i] : 0.f;
            bool in = i < length(block) && kept(x, id_of(block, i));
            u64 sum = in ? units(x) : 0;
            for (int step = 1; step < 32; step *= 2) {
                u64 below = __shfl_up_sync(~0u, sum, step);
                if (lane >= step) sum += below;
            }
            unsigned over = __ballot_sync(~0u, in && before + sum > left), any = __ballot_sync(~0u, in);
            if (over) {
                if (lane == 0) *out = id_of(block, half + __ffs(over) - 1);
                return;
            }
            if (any) last = id_of(block, half + 31 - __clz(any));
            before += __shfl_sync(~0u, sum, 31);
        }
        if (lane == 0) *out = last;
    }
};

// Replaces a logit; what was forbidden stays so, and nothing grows to infinity or becomes NaN.
template <class F>
__device__ __forceinline__ void change(float& x, F f) {
    if (!(x > -INFINITY)) return;
    float y = f(x);
    x = isnan(y) ? -INFINITY : fminf(y, 3.402823466e38f);
}

// Bans, penalties and biases, by the member that has the token: `place(id)` is where it has it.
template <class Place>
__device__ __forceinline__ void edit(const Row& row, const unsigned* words, unsigned low, unsigned high, Place place) {
    auto mine = [&](unsigned id) { return id >= low && id < high; };
    // Ids are listed once in each list.
    for (unsigned i = threadIdx.x; i < row.banned_count; i += THREADS) {
        unsigned id = words[row.banned + i];
        if (mine(id)) place(id) = -INFINITY;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < row.seen_count; i += THREADS) {
        unsigned id = words[row.seen + 2 * i], count = words[row.seen + 2 * i + 1];
        if (!mine(id)) continue;
        float x = place(id);
        if (row.repetition != 1.f) {
            change(x, [&](float x) { return x > 0.f ? __fdiv_rn(x, row.repetition) : __fmul_rn(x, row.repetition); });
        }
        if (count > 0 && (row.frequency != 0.f || row.presence != 0.f)) {
            float less = __fadd_rn(__fmul_rn(static_cast<float>(count), row.frequency), row.presence);
            change(x, [&](float x) { return __fsub_rn(x, less); });
        }
        place(id) = x;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < row.bias_count; i += THREADS) {
        unsigned id = words[row.bias + 2 * i];
        float bias = __uint_as_float(words[row.bias + 2 * i + 1]);
        if (mine(id)) change(place(id), [&](float x) { return __fadd_rn(x, bias); });
    }
    __syncthreads();
}

extern __shared__ u64 space[];

template <int C>
__device__ __forceinline__ void sample(const float* logits, int v, const unsigned* words, float* spare, unsigned* out) {
    __shared__ Shared shared;
    unsigned all = (v + BLOCK - 1) / BLOCK, each = (all + C - 1) / C;
    Team<C> team{shared};
    team.turn = 0;
    team.arrive();
    grid_wait();
    grid_release();
    size_t at = blockIdx.x / C;
    out += at;
    const Row row = reinterpret_cast<const Row*>(words)[at];
    logits += static_cast<size_t>(row.number) * v;
    team.v = v, team.first = min(team.rank() * each, all), team.blocks = min(each, all - team.first);
    team.masses = space;
    team.w = C > 1 ? reinterpret_cast<float*>(space + each) : spare + at * v;
    bool bad = false;
    team.each_block([&](unsigned block, unsigned lane, bool active) {
        for (unsigned i = lane; active && i < team.length(block); i += 8) {
            unsigned id = team.id_of(block, i);
            float x = logits[id];
            bad |= isnan(x) || x == INFINITY;
            bool allowed = row.mask == ~0u || (id / 32 < row.mask_words && (words[row.mask + id / 32] >> id % 32 & 1));
            team.w[block * Team<C>::STRIDE + i] = allowed ? x : -INFINITY;
        }
    });
    __syncthreads();
    unsigned low = team.id_of(0, 0), high = min(static_cast<unsigned>(v), team.id_of(team.blocks, 0));
    edit(row, words, low, high, [&](unsigned id) -> float& {
        return team.w[(id / BLOCK - team.first) * Team<C>::STRIDE + id % BLOCK];
    });
    Tally top = {bad ? ~0ull : 0, 0};
    team.each_block([&](unsigned block, unsigned lane, bool active) {
        for (unsigned i = lane; active && i < team.length(block); i += 8) {
            top = join<true>(top, {rank_of(team.w[block * Team<C>::STRIDE + i], team.id_of(block, i)), 0});
        }
    });
    // The members have begun, so that their shared memory may be written.
    team.wait();
    top = team.template reduce<true>(top);
    float largest = value_of(top.value);
    if (top.value == ~0ull || largest == -INFINITY || row.inverse == 0.f) {
        unsigned likeliest = ~static_cast<unsigned>(top.value);
        unsigned answer = top.value == ~0ull ? NOT_A_NUMBER : largest == -INFINITY ? NOTHING_ALLOWED : likeliest;
        if (team.rank() == 0 && threadIdx.x == 0) *out = answer;
        return;
    }
    team.each_block([&](unsigned block, unsigned lane, bool active) {
        for (unsigned i = lane; active && i < team.length(block); i += 8) {
            float& x = team.w[block * Team<C>::STRIDE + i];
            x = exp_of(__fmul_rn(__fsub_rn(x, largest), row.inverse));
        }
    });
    __syncthreads();
    u64 cutoff = 0;
    if (row.top_k > 0 && row.top_k < static_cast<unsigned>(v)) cutoff = team.kth(row.top_k);
    if (row.top_p < 1.f) {
        u64 other = team.nucleus(row.top_p, cutoff);
        cutoff = cutoff > other ? cutoff : other;
    }
    if (row.min_p > 0.f) {
        u64 other = key_of(row.min_p, ~0u);
        cutoff = cutoff > other ? cutoff : other;
    }
    team.draw(cutoff, row.point, out);
}

// words: a Row for each token that is wanted, then the lists; spare[tokens, v] before sm_90; out[tokens].
extern "C" __global__ void CLUSTER_OF(8) __launch_bounds__(THREADS, 2)
sample_spread(const float* logits, int v, const unsigned* words, float* spare, unsigned* out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    sample<8>(logits, v, words, spare, out);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
sample_alone(const float* logits, int v, const unsigned* words, float* spare, unsigned* out) {
    sample<1>(logits, v, words, spare, out);
}
