// Adam_float32: arithmetic in float32, a block of elements with each warp.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 128;
constexpr int WARP = 32;
constexpr int BLOCK = 256;  // elements that have something in common
constexpr int V = 4;  // a thread has that lie side by side
constexpr int APART = V * WARP;  // from these to others that it has in the block
constexpr int COUNTERS = BLOCK / 16;  // of its random words
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    float h0;  // (1 - beta1)
    float beta2;
    float h2;  // (1 - beta2)
    float h3;  // (1 - (beta2 ** t))
    float h4;  // (lr / (1 - (beta1 ** t)))
    float eps;
    double t;
    unsigned u71;
    unsigned u72;
    unsigned u78;
};

// The rule, for one element: what comes before the largest words of its block are known.
__device__ __forceinline__ void before(
    const Uniform& h, float& w, const float g, const unsigned char m, const unsigned char v, const
        unsigned char m_unit, const unsigned char v_unit, float& kept49, float& kept138, unsigned&
        largest85, unsigned& largest125, const bool is_there)
{
    const unsigned t0 = (unsigned)m;
    const unsigned t1 = (t0 & 127u);
    const unsigned t2 = (((unsigned)m_unit + 1u) << 23u);
    const unsigned t3 = __float_as_uint(__uint_as_float((t1 << 20u) + t2) - __uint_as_float(t2));
    const float t4 = __uint_as_float(((t1 == 127u ? 2143289344u : t3) | ((t0 & 128u) << 24u)));
    const unsigned t5 = (unsigned)v;
    const unsigned t6 = (((unsigned)v_unit + 1u) << 23u);
    const unsigned t7 = __float_as_uint(__uint_as_float((t5 << 20u) + t6) - __uint_as_float(t6));
    const float t8 = t4 - h.h0 * t4 + h.h0 * g;
    const float t9 = h.beta2 * __uint_as_float(t5 == 255u ? 2143289344u : t7) + h.h2 * (g * g);
    const float new_w = w - h.h4 * t8 / (sqrtf(t9 / h.h3) + h.eps);
    w = new_w;
    kept49 = t8;
    kept138 = t9 + 0.0f;
    largest85 = max(largest85, is_there ? (__float_as_uint(t8) & 2147483647u) - 2139095040u : 0u);
    largest125 = max(largest125, is_there ? __float_as_uint(t9) - 2139095040u : 0u);
}

// And what is made of them.
__device__ __forceinline__ void after(
    const Uniform& h, unsigned char& m, unsigned char& v, unsigned char& m_unit_kept, unsigned char&
        v_unit_kept, const unsigned draw2147483648, const float kept49, const float kept138, const
        unsigned largest85, const unsigned largest125)
{
    const unsigned t0 = __float_as_uint(kept49);
    const unsigned t1 = (t0 & 2147483647u);
    const unsigned t2 = (2155872255u < largest85 ? largest85 + 2139095040u : 0u) + 2105343u;
    const unsigned t3 = (t2 >> 23u);
    const unsigned t4 = t3 < 16u ? 0u : t3 - 16u;
    const unsigned t5 = ((t4 + 1u) << 23u);
    const unsigned t6 = __float_as_uint(__uint_as_float(t1) + __uint_as_float(t5)) - t5 +
        (draw2147483648 >> 12u);
    const unsigned t7 = (t6 >> 20u);
    const unsigned t8 = t4 == 239u ? 119u : 126u;
    const unsigned t9 = t1 < 2139095040u ? ((t8 < t7 ? t8 : t7) | ((t0 >> 24u) & 128u)) : 127u;
    const unsigned char new_m = (unsigned char)t9;
    const unsigned char new_m_unit = (unsigned char)t4;
    const unsigned t10 = (2155872255u < largest125 ? largest125 + 2139095040u : 0u) + 2105343u;
    const unsigned t11 = (t10 >> 23u);
    const unsigned t12 = t11 < 32u ? 0u : t11 - 32u;
    const unsigned t13 = ((t12 + 1u) << 23u);
    const unsigned t14 = __float_as_uint(kept138);
    const unsigned t15 = __float_as_uint(__uint_as_float(t14) + __uint_as_float(t13)) - t13;
    const unsigned t16 = ((t15 + (draw2147483648 & 1048575u)) >> 20u);
    const unsigned t17 = t12 == 223u ? 247u : 254u;
    const unsigned t18 = t17 < t16 ? t17 : t16;
    const unsigned t19 = 0.0f < kept138 ? 1u : 0u;
    const unsigned char new_v = (unsigned char)(t14 < 2139095040u ? (t18 < t19 ? t19 : t18) : 255u);
    const unsigned char new_v_unit = (unsigned char)t12;
    m = new_m;
    m_unit_kept = new_m_unit;
    v = new_v;
    v_unit_kept = new_v_unit;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in elements
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    unsigned char* m;
    unsigned char* m_unit;
    unsigned char* v;
    unsigned char* v_unit;
    double* number5;
};

// A step: hyperparameters of every row, then the addresses of parameter and gradient of every
// tensor, as words of 64 bits. The first of them travel with the launch.
struct Step {
    const Leaf* leaves;
    const int* leaf_of_block;
    const unsigned long long* far;
    double* sums;       // a row for every sum; columns: the tensors, and the tree
    double* partials;   // the sums of tiles
    unsigned* arrived;  // blocks that are done, for every tensor; and tensors that are done
    const long long* taken;
    long long chunk;    // elements of a block
    long long pairs;    // the first word that is an address
    long long columns;  // of the table of sums
    long long tree;     // tensors of the tree, if this launch has them all
    // Of a guarded step: the host knows of `known` steps, and prepared a launch for each number
    // of steps that may have been taken by now. The device knows how many were.
    long long known;
    long long candidates;  // the bit of every number of steps that this launch is for
    long long rows;        // of hyperparameters, for each of them
    unsigned long long near[NEAR];
};

__device__ __forceinline__ unsigned long long word(const Step& step, const long long i)
{
    return i < NEAR ? step.near[i] : step.far[i - NEAR];
}

// The compiler cannot see that an address from a table is one of global memory; where it knows,
// it uses the faster instructions for it. (A host compiler has one kind of memory only.)
#ifdef __GNUC__
#define GLOBAL(address)
#else
#define GLOBAL(address) __builtin_assume(__isGlobal(address))
#endif

__device__ __forceinline__ Uniform uniform(const Step& step, const Leaf& leaf)
{
    Uniform h;
    const long long first = leaf.row * 7;
    h.h0 = __uint_as_float((unsigned)word(step, first + 0));
    h.beta2 = __uint_as_float((unsigned)word(step, first + 1));
    h.h2 = __uint_as_float((unsigned)word(step, first + 2));
    h.h3 = __uint_as_float((unsigned)word(step, first + 3));
    h.h4 = __uint_as_float((unsigned)word(step, first + 4));
    h.eps = __uint_as_float((unsigned)word(step, first + 5));
    h.t = __longlong_as_double((long long)word(step, first + 6));
    const double sum5 = __ldcg(leaf.number5);
    const double t0 = floor(sum5 * 0x1.0000000000000p-32);
    const unsigned u71 = (unsigned)(sum5 - t0 * 0x1.0000000000000p+32);
    const unsigned u72 = (unsigned)t0;
    const unsigned u78 = (unsigned)(h.t - floor(h.t * 0x1.0000000000000p-32) *
        0x1.0000000000000p+32);
    h.u71 = u71;
    h.u72 = u72;
    h.u78 = u78;
    return h;
}

// V elements that lie side by side.
template <typename T>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack {
    T at[V];
};

template <typename T>
__device__ __forceinline__ Pack<T>& pack(T* const address, const int i)
{
    return *reinterpret_cast<Pack<T>*>(address + i);
}

__device__ __forceinline__ unsigned long long bits(const void* const address)
{
    return reinterpret_cast<unsigned long long>(address);
}

// The largest word that a thread of the warp has.
__device__ __forceinline__ unsigned largest_of(unsigned mine)
{
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(~0u, mine);
#else
    #pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2)
        mine = max(mine, __shfl_xor_sync(~0u, mine, apart));
    return mine;
#endif
}

// The random words of 4 elements: Philox-4x32-10 of their number, the step and the draw.
struct Words {
    unsigned at[4];
};

__device__ __forceinline__ Words philox(
    unsigned k, unsigned l, const unsigned at_step, const unsigned draw, const long long block)
{
    unsigned a = (unsigned)block, b = (unsigned)(block >> 32), c = at_step, d = draw;
    #pragma unroll
    for (int round = 0; round < 10; ++round, k += 2654435769u, l += 3144134277u) {
        const unsigned high_a = __umulhi(3528531795u, a), low_a = 3528531795u * a;
        const unsigned high_c = __umulhi(3449720151u, c), low_c = 3449720151u * c;
        a = high_c ^ b ^ k, b = low_c, c = high_a ^ d ^ l, d = low_a;
    }
    return {a, b, c, d};
}

// The random words of a block, as `words.shared` says it: each thread gives those of a counter, and
// gets those of its own elements.
__device__ __forceinline__ Words shared_words(unsigned* const room, const Words& made)
{
    const int lane = threadIdx.x % WARP;
    __syncwarp();  // what was there has been read
    if (lane < COUNTERS)
        for (int j = 0; j < 4; ++j)
            room[j * COUNTERS + lane] = made.at[j];
    __syncwarp();
    const Pack<unsigned> own = pack(room, V * lane % (BLOCK / 4));
    Words mine;
    for (int k = 0; k < V; ++k)
        mine.at[k] = __funnelshift_l(own.at[k], own.at[k], V * lane / (BLOCK / 4) * 8);
    return mine;
}

// That of the element `k` of a part.
__device__ __forceinline__ unsigned turned(const Words& words, const int part, const int k)
{
    return __funnelshift_l(words.at[k], words.at[k], part * APART / (BLOCK / 4) * 8);
}

// Byte offsets of an element from the first one.
struct Offsets {
    long long w = 0, g = 0, m = 0, v = 0;
};

// The layout: the number of axes; then for each, the last one first, its length and the bytes from
// one element to the next in every array.
__device__ __forceinline__ Offsets locate(const long long* const layout, unsigned long long i)
{
    Offsets at;
    const long long* axis = layout + 1;
    #pragma unroll 1
    for (long long rest = layout[0]; rest > 0; --rest, axis += 7) {
        const unsigned long long length = axis[0];
        const long long index = i % length;
        i /= length;
        at.w += index * axis[1];
        at.g += index * axis[2];
        at.m += index * axis[3];
        at.v += index * axis[5];
    }
    return at;
}

template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
Adam_float32_strided(const __grid_constant__ Step step)
{
    alignas(16) __shared__ unsigned rooms[THREADS / WARP][BLOCK / 4];
    unsigned* const room = rooms[threadIdx.x / WARP];
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0));
    GLOBAL(w);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1));
    GLOBAL(g);
    unsigned char* const m = leaf.m;
    GLOBAL(m);
    unsigned char* const v = leaf.v;
    GLOBAL(v);
    unsigned char* const m_unit = leaf.m_unit;
    GLOBAL(m_unit);
    unsigned char* const v_unit = leaf.v_unit;
    GLOBAL(v_unit);
    const long long* const layout = leaf.layout;
    GLOBAL(layout);

    #pragma unroll 1
    for (int begin = threadIdx.x / WARP * BLOCK; begin < count; begin += THREADS / WARP * BLOCK) {
        const long long block = (start + begin) / BLOCK;
        const int mine = begin + V * (threadIdx.x % WARP), left = count - mine;
        Pack<float> w_pack[BLOCK / APART] = {};
        Pack<float> g_pack[BLOCK / APART] = {};
        Pack<unsigned char> m_pack[BLOCK / APART] = {};
        Pack<unsigned char> v_pack[BLOCK / APART] = {};
        const unsigned char m_unit_i = m_unit[block];
        unsigned char m_unit_kept;
        const unsigned char v_unit_i = v_unit[block];
        unsigned char v_unit_kept;
        #pragma unroll
        for (int p = 0; p < BLOCK / APART; ++p) {
            #pragma unroll
            for (int k = 0; k < V; ++k)
                if (p * APART + k < left) {
                    const Offsets at = locate(layout, start + mine + p * APART + k);
                    w_pack[p].at[k] = pointer(w, at.w);
                    g_pack[p].at[k] = pointer(g, at.g);
                    m_pack[p].at[k] = pointer(m, at.m);
                    v_pack[p].at[k] = pointer(v, at.v);
                }
        }
        const Words words2147483648 = shared_words(room, philox(h.u71, h.u72, h.u78, 2147483648u,
            block * COUNTERS + threadIdx.x % COUNTERS));
        float kept49[BLOCK / APART][V];
        float kept138[BLOCK / APART][V];
        unsigned largest85 = 0;
        unsigned largest125 = 0;
        #pragma unroll
        for (int p = 0; p < BLOCK / APART; ++p) {
            #pragma unroll
            for (int k = 0; k < V; ++k)
                before(h, w_pack[p].at[k], g_pack[p].at[k], m_pack[p].at[k], v_pack[p].at[k],
                    m_unit_i, v_unit_i, kept49[p][k], kept138[p][k], largest85, largest125, p *
                    APART + k < left);
        }
        #pragma unroll
        for (int p = 0; p < BLOCK / APART; ++p) {
            #pragma unroll
            for (int k = 0; k < V; ++k)
                if (p * APART + k < left) {
                    const Offsets at = locate(layout, start + mine + p * APART + k);
                    pointer(w, at.w) = w_pack[p].at[k];
                }
        }
        largest85 = largest_of(largest85);
        largest125 = largest_of(largest125);
        #pragma unroll
        for (int p = 0; p < BLOCK / APART; ++p) {
            #pragma unroll
            for (int k = 0; k < V; ++k)
                after(h, m_pack[p].at[k], v_pack[p].at[k], m_unit_kept, v_unit_kept,
                    turned(words2147483648, p, k), kept49[p][k], kept138[p][k], largest85,
                    largest125);
        }
        #pragma unroll
        for (int p = 0; p < BLOCK / APART; ++p) {
            #pragma unroll
            for (int k = 0; k < V; ++k)
                if (p * APART + k < left) {
                    const Offsets at = locate(layout, start + mine + p * APART + k);
                    pointer(m, at.m) = m_pack[p].at[k];
                    pointer(v, at.v) = v_pack[p].at[k];
                }
        }
        __syncwarp();  // all have read what was there
        if (threadIdx.x % WARP == 0) {
            m_unit[block] = m_unit_kept;
            v_unit[block] = v_unit_kept;
        }
    }
}
