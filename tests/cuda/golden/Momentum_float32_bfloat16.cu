// Momentum_float32: arithmetic in float32, a block of elements with each warp.
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
    float momentum;
    float h1;  // (lr * xp.where((t == 1), 1.0, (1 - dampening)))
    double t;
    unsigned u20;
    unsigned u21;
    unsigned u27;
};

// The rule, for one element.
__device__ __forceinline__ void update(
    const Uniform& h, float& w, const float g, unsigned short& v, const unsigned draw2147483648)
{
    const float t0 = h.momentum * __uint_as_float(((unsigned)v << 16u)) - h.h1 * g;
    const float new_w = w + t0;
    const unsigned t1 = __float_as_uint(t0);
    const unsigned t2 = (t1 & 2147483647u);
    const unsigned t3 = 2139095040u < t2 ? 32704u : ((t2 < 2139029504u ? t1 + (draw2147483648 >>
        16u) : t1) >> 16u);
    const unsigned short new_v = (unsigned short)t3;
    w = new_w;
    v = new_v;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in elements
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    unsigned short* v;
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
    const long long first = leaf.row * 3;
    h.momentum = __uint_as_float((unsigned)word(step, first + 0));
    h.h1 = __uint_as_float((unsigned)word(step, first + 1));
    h.t = __longlong_as_double((long long)word(step, first + 2));
    const double sum5 = __ldcg(leaf.number5);
    const double t0 = floor(sum5 * 0x1.0000000000000p-32);
    const unsigned u20 = (unsigned)(sum5 - t0 * 0x1.0000000000000p+32);
    const unsigned u21 = (unsigned)t0;
    const unsigned u27 = (unsigned)(h.t - floor(h.t * 0x1.0000000000000p-32) *
        0x1.0000000000000p+32);
    h.u20 = u20;
    h.u21 = u21;
    h.u27 = u27;
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

extern "C" __global__ void __launch_bounds__(THREADS, 4)
Momentum_float32(const __grid_constant__ Step step)
{
    alignas(16) __shared__ unsigned rooms[THREADS / WARP][BLOCK / 4];
    unsigned* const room = rooms[threadIdx.x / WARP];
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0)) + start;
    GLOBAL(w);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1)) + start;
    GLOBAL(g);
    unsigned short* const v = leaf.v + start;
    GLOBAL(v);
    const bool aligned = ((bits(w) | bits(g) | bits(v)) & 15) == 0;

    #pragma unroll 1
    for (int begin = threadIdx.x / WARP * BLOCK; begin < count; begin += THREADS / WARP * BLOCK) {
        const long long block = (start + begin) / BLOCK;
        const int mine = begin + V * (threadIdx.x % WARP), left = count - mine;
        Pack<float> w_pack[BLOCK / APART] = {};
        Pack<float> g_pack[BLOCK / APART] = {};
        Pack<unsigned short> v_pack[BLOCK / APART] = {};
        if (aligned && begin + BLOCK <= count) {
            #pragma unroll
            for (int p = 0; p < BLOCK / APART; ++p) {
                w_pack[p] = pack(w, mine + p * APART);
                g_pack[p] = pack(g, mine + p * APART);
                v_pack[p] = pack(v, mine + p * APART);
            }
        } else {
            #pragma unroll
            for (int p = 0; p < BLOCK / APART; ++p) {
                #pragma unroll
                for (int k = 0; k < V; ++k)
                    if (p * APART + k < left) {
                        w_pack[p].at[k] = w[mine + p * APART + k];
                        g_pack[p].at[k] = g[mine + p * APART + k];
                        v_pack[p].at[k] = v[mine + p * APART + k];
                    }
            }
        }
        const Words words2147483648 = shared_words(room, philox(h.u20, h.u21, h.u27, 2147483648u,
            block * COUNTERS + threadIdx.x % COUNTERS));
        #pragma unroll
        for (int p = 0; p < BLOCK / APART; ++p) {
            #pragma unroll
            for (int k = 0; k < V; ++k)
                update(h, w_pack[p].at[k], g_pack[p].at[k], v_pack[p].at[k], turned(words2147483648,
                    p, k));
        }
        if (aligned && begin + BLOCK <= count) {
            #pragma unroll
            for (int p = 0; p < BLOCK / APART; ++p) {
                pack(w, mine + p * APART) = w_pack[p];
                pack(v, mine + p * APART) = v_pack[p];
            }
        } else {
            #pragma unroll
            for (int p = 0; p < BLOCK / APART; ++p) {
                #pragma unroll
                for (int k = 0; k < V; ++k)
                    if (p * APART + k < left) {
                        w[mine + p * APART + k] = w_pack[p].at[k];
                        v[mine + p * APART + k] = v_pack[p].at[k];
                    }
            }
        }
    }
}
