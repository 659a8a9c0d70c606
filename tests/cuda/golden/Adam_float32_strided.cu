// Adam_float32: arithmetic in float32, box by box.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
#if __CUDA_ARCH__ / 100 == 9
constexpr int BLOCKS = 3;
#else  // elsewhere, a third block would cost a spilled register
constexpr int BLOCKS = 2;
#endif
constexpr int V = 4;
constexpr int E = 4;  // a thread takes at once
constexpr int ARRAYS = 4;
constexpr int ROOM = E * (THREADS + THREADS / 4);
constexpr int NEAR = 496;

// What is the same for all elements of a tensor.
struct Uniform {
    float h0;  // (1 - beta1)
    float beta2;
    float h2;  // (1 - beta2)
    float h3;  // (1 - (beta2 ** t))
    float h4;  // (lr / (1 - (beta1 ** t)))
    float eps;
};

// The rule, for one element.
__device__ __forceinline__ void update(
    const Uniform& h, float& w, const float g, float& m, float& v)
{
    const float new_m = m - h.h0 * m + h.h0 * g;
    const float new_v = h.beta2 * v + h.h2 * (g * g);
    const float new_w = w - h.h4 * new_m / (sqrtf(new_v / h.h3) + h.eps);
    w = new_w;
    m = new_m;
    v = new_v;
}

// A tensor: what stays the same from step to step.
struct Leaf {
    long long size;  // in boxes
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
    float* m;
    float* v;
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
    long long chunk;    // boxes of a block
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
    const long long first = leaf.row * 6;
    h.h0 = __uint_as_float((unsigned)word(step, first + 0));
    h.beta2 = __uint_as_float((unsigned)word(step, first + 1));
    h.h2 = __uint_as_float((unsigned)word(step, first + 2));
    h.h3 = __uint_as_float((unsigned)word(step, first + 3));
    h.h4 = __uint_as_float((unsigned)word(step, first + 4));
    h.eps = __uint_as_float((unsigned)word(step, first + 5));
    return h;
}

// V elements that lie side by side.
template <typename T>
struct alignas(16) Pack {
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

// A part of a tensor. Of each array, in bytes: where it begins; from row to row and from column to
// column; for a thread, from one element to the next, and to those that it takes after these.
struct Box {
    unsigned rows, columns;
    long long at[ARRAYS], down[ARRAYS], along[ARRAYS], step[ARRAYS], next[ARRAYS];
};

// What is turned. Rows are an odd number of elements apart, so that neither those of a row nor
// those of a column meet in a bank.
struct Staged {
    float w[ROOM];
    float g[ROOM];
    float m[ROOM];
    float v[ROOM];
};

// The layout: the bits of arrays that are turned; how many threads stand in a row, and how many
// rows of them; whether a box is one row, cut into those of threads, and without gaps; the number
// of axes; the bytes to where each array is entered. Then for each axis, columns and rows first:
// into how many parts it is cut, their length, its length, and the bytes from one element to the
// next in every array. A thread looks after one array.
__device__ __forceinline__ void locate(
    const long long* const layout, unsigned long long i, Box& box)
{
    const int a = threadIdx.x;
    if (a >= ARRAYS)
        return;
    long long at = layout[6 + a], down = 0, along = 0;
    unsigned rows = 0, columns = 0;
    const long long* axis = layout + 6 + ARRAYS;
    #pragma unroll 1
    for (long long k = 0; k < layout[5]; ++k, axis += 3 + ARRAYS) {
        const unsigned long long parts = axis[0];
        const long long index = (long long)(i % parts) * axis[1];
        const unsigned length = min(axis[1], axis[2] - index);
        i /= parts;
        at += index * axis[3 + a];
        if (k == 0)
            columns = length, along = axis[3 + a];
        else if (k == 1)
            rows = length, down = axis[3 + a];
    }
    const long long high = layout[2], tall = E * high;
    box.at[a] = at;
    box.down[a] = down;
    box.along[a] = along;
    box.step[a] = layout[0] >> a & 1 ? THREADS / tall * along : high * down;
    box.next[a] = tall * down;
    if (a == 0) {
        box.rows = rows;
        box.columns = columns;
    }
}

template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}

// The elements of a thread, `step` bytes apart, from memory and back: those whose bits are set.
template <typename T>
__device__ __forceinline__ void load(
    T (&values)[E], T* const first, const long long step, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            values[k] = pointer(first, k * step);
}

template <typename T>
__device__ __forceinline__ void store(
    const T (&values)[E], T* const first, const long long step, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            pointer(first, k * step) = values[k];
}

// Into shared memory, and from there, so many elements apart.
template <typename T>
__device__ __forceinline__ void put(
    const T (&values)[E], T* const first, const unsigned apart, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            first[k * apart] = values[k];
}

template <typename T>
__device__ __forceinline__ void take(
    T (&values)[E], const T* const first, const unsigned apart, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            values[k] = first[k * apart];
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
Adam_float32_strided(const __grid_constant__ Step step)
{
    __shared__ Box box;
    __shared__ Staged staged;
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    const long long* const layout = leaf.layout;
    GLOBAL(layout);

    #pragma unroll 1
    for (int b = 0; b < count; ++b) {
        __syncthreads();  // the box before is done
        locate(layout, start + b, box);
        __syncthreads();
        unsigned size = layout[3] ? box.columns : box.rows * (unsigned)layout[1];
        float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0));
        GLOBAL(w);
        float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1));
        GLOBAL(g);
        float* const m = leaf.m;
        GLOBAL(m);
        float* const v = leaf.v;
        GLOBAL(v);
        float* w_at = &pointer(w, box.at[0]);
        float* g_at = &pointer(g, box.at[1]);
        float* m_at = &pointer(m, box.at[2]);
        float* v_at = &pointer(v, box.at[3]);
        if (layout[4]) {
            const bool aligned = ((bits(w_at) | bits(g_at) | bits(m_at) | bits(v_at)) & 15) == 0;
            const int whole = aligned ? size / V * V : 0;
            #pragma unroll 1  // other blocks, not more code, keep the memory busy
            for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {
                Pack<float> w_pack = pack(w_at, i);
                Pack<float> g_pack = pack(g_at, i);
                Pack<float> m_pack = pack(m_at, i);
                Pack<float> v_pack = pack(v_at, i);
                #pragma unroll
                for (int k = 0; k < V; ++k)
                    update(h, w_pack.at[k], g_pack.at[k], m_pack.at[k], v_pack.at[k]);
                pack(w_at, i) = w_pack;
                pack(m_at, i) = m_pack;
                pack(v_at, i) = v_pack;
            }
            size -= whole;
            w_at += whole;
            g_at += whole;
            m_at += whole;
            v_at += whole;
        }
        // A thread takes E elements of a column at once. Of what is turned, it reads and writes E
        // of a row, so that the threads of a warp go down the columns.
        const unsigned turned = layout[0], width = layout[1], high = layout[2], pitch = width | 1;
        const unsigned tall = E * high, apart = THREADS / tall;
        const unsigned r = threadIdx.x / width, c = threadIdx.x % width;
        const unsigned r_turned = threadIdx.x % tall, c_turned = threadIdx.x / tall;
        const unsigned mine_staged = r * pitch + c, turned_staged = r_turned * pitch + c_turned;
        const unsigned mine = r < high && c < box.columns ? threadIdx.x : size;
        w_at = &pointer(w_at, turned >> 0 & 1 ? r_turned * box.down[0]
            + c_turned * box.along[0] : r * box.down[0] + c * box.along[0]);
        g_at = &pointer(g_at, turned >> 1 & 1 ? r_turned * box.down[1]
            + c_turned * box.along[1] : r * box.down[1] + c * box.along[1]);
        m_at = &pointer(m_at, turned >> 2 & 1 ? r_turned * box.down[2]
            + c_turned * box.along[2] : r * box.down[2] + c * box.along[2]);
        v_at = &pointer(v_at, turned >> 3 & 1 ? r_turned * box.down[3]
            + c_turned * box.along[3] : r * box.down[3] + c * box.along[3]);
        #pragma unroll 1
        for (unsigned begin = 0; begin < size; begin += tall * width) {
            unsigned here = 0, there = 0;  // which elements there are
            #pragma unroll
            for (int k = 0; k < E; ++k)
                here |= (unsigned)(begin + mine + k * high * width < size) << k;
            if (turned && begin + r_turned * width < size)
                #pragma unroll
                for (int k = 0; k < E; ++k)
                    there |= (unsigned)(c_turned + k * apart < box.columns) << k;
            float w_i[E];
            const long long w_step = box.step[0];
            const unsigned w_there = turned >> 0 & 1 ? there : here;
            load(w_i, w_at, w_step, w_there);
            float g_i[E];
            const long long g_step = box.step[1];
            const unsigned g_there = turned >> 1 & 1 ? there : here;
            load(g_i, g_at, g_step, g_there);
            float m_i[E];
            const long long m_step = box.step[2];
            const unsigned m_there = turned >> 2 & 1 ? there : here;
            load(m_i, m_at, m_step, m_there);
            float v_i[E];
            const long long v_step = box.step[3];
            const unsigned v_there = turned >> 3 & 1 ? there : here;
            load(v_i, v_at, v_step, v_there);
            if (turned) {
                __syncthreads();  // the elements before are done
                if (turned >> 0 & 1)
                    put(w_i, staged.w + turned_staged, apart, there);
                if (turned >> 1 & 1)
                    put(g_i, staged.g + turned_staged, apart, there);
                if (turned >> 2 & 1)
                    put(m_i, staged.m + turned_staged, apart, there);
                if (turned >> 3 & 1)
                    put(v_i, staged.v + turned_staged, apart, there);
                __syncthreads();
                if (turned >> 0 & 1)
                    take(w_i, staged.w + mine_staged, high * pitch, here);
                if (turned >> 1 & 1)
                    take(g_i, staged.g + mine_staged, high * pitch, here);
                if (turned >> 2 & 1)
                    take(m_i, staged.m + mine_staged, high * pitch, here);
                if (turned >> 3 & 1)
                    take(v_i, staged.v + mine_staged, high * pitch, here);
            }
            #pragma unroll
            for (int k = 0; k < E; ++k)
                if (here >> k & 1)
                    update(h, w_i[k], g_i[k], m_i[k], v_i[k]);
            if (turned) {
                if (turned >> 0 & 1)
                    put(w_i, staged.w + mine_staged, high * pitch, here);
                if (turned >> 2 & 1)
                    put(m_i, staged.m + mine_staged, high * pitch, here);
                if (turned >> 3 & 1)
                    put(v_i, staged.v + mine_staged, high * pitch, here);
                __syncthreads();
                if (turned >> 0 & 1)
                    take(w_i, staged.w + turned_staged, apart, there);
                if (turned >> 2 & 1)
                    take(m_i, staged.m + turned_staged, apart, there);
                if (turned >> 3 & 1)
                    take(v_i, staged.v + turned_staged, apart, there);
            }
            store(w_i, w_at, w_step, w_there);
            store(m_i, m_at, m_step, m_there);
            store(v_i, v_at, v_step, v_there);
            w_at = &pointer(w_at, box.next[0]);
            g_at = &pointer(g_at, box.next[1]);
            m_at = &pointer(m_at, box.next[2]);
            v_at = &pointer(v_at, box.next[3]);
        }
    }
}
