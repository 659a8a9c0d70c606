// Adam_float32: arithmetic in float32, box by box.
// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every
// operation is rounded once, as IEEE 754 says.

constexpr int THREADS = 256;
constexpr int ROOM = 1056;
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

// Byte offsets of an element from the first one.
struct Offsets {
    long long w = 0, g = 0, m = 0, v = 0;
};

// A part of a tensor: where it begins in each array, and the bytes from row to row and from column
// to column.
struct Box {
    Offsets at, down, along;
    unsigned rows, columns;
    unsigned turned;  // a bit for each array that goes through shared memory
};

// What goes through shared memory. Rows are an odd number of elements apart, so that neither those
// of a row nor those of a column meet in a bank.
struct Staged {
    float w[ROOM];
    float g[ROOM];
    float m[ROOM];
    float v[ROOM];
};

// The layout: the bits of what goes through shared memory; the number of axes; the bytes to where
// each array is entered. Then for each axis, columns and rows first: into how many parts it is cut,
// their length, its length, and the bytes from one element to the next in every array.
__device__ __forceinline__ Box locate(const long long* const layout, unsigned long long i)
{
    GLOBAL(layout);
    Box box;
    box.turned = layout[0];
    box.at.w = layout[2]; box.at.g = layout[3]; box.at.m = layout[4]; box.at.v = layout[5];
    const long long* axis = layout + 6;
    #pragma unroll 1
    for (long long k = 0; k < layout[1]; ++k, axis += 7) {
        const unsigned long long parts = axis[0];
        const long long index = (long long)(i % parts) * axis[1];
        const unsigned length = min(axis[1], axis[2] - index);
        i /= parts;
        box.at.w += index * axis[3]; box.at.g += index * axis[4]; box.at.m += index * axis[5];
            box.at.v += index * axis[6];
        if (k == 0) {
            box.columns = length;
            box.along.w = axis[3]; box.along.g = axis[4]; box.along.m = axis[5]; box.along.v =
                axis[6];
        } else if (k == 1) {
            box.rows = length;
            box.down.w = axis[3]; box.down.g = axis[4]; box.down.m = axis[5]; box.down.v = axis[6];
        }
    }
    return box;
}

template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}

template <typename T>
__device__ __forceinline__ T take(const bool turned, const T& staged, const T& place)
{
    if (turned)
        return staged;
    return place;
}

template <typename T>
__device__ __forceinline__ void put(const bool turned, T& staged, T& place, const T value)
{
    if (turned)
        staged = value;
    else
        place = value;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
Adam_float32_strided(const __grid_constant__ Step step)
{
    __shared__ Staged staged;
    const int number = step.leaf_of_block[blockIdx.x];
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    float* const w = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 0));
    GLOBAL(w);
    float* const g = reinterpret_cast<float*>(word(step, step.pairs + 2 * number + 1));
    GLOBAL(g);
    float* const m = leaf.m;
    GLOBAL(m);
    float* const v = leaf.v;
    GLOBAL(v);

    #pragma unroll 1
    for (int k = 0; k < count; ++k) {
        const Box box = locate(leaf.layout, start + k);
        const unsigned size = box.rows * box.columns, pitch = box.columns | 1;
        if (box.turned) {
            __syncthreads();  // the box before is done
            #pragma unroll 1
            for (unsigned i = threadIdx.x; i < size; i += THREADS) {
                const unsigned r = i % box.rows, c = i / box.rows;
                if (box.turned >> 0 & 1)
                    staged.w[r * pitch + c] = pointer(w, box.at.w + r * box.down.w + c *
                        box.along.w);
                if (box.turned >> 1 & 1)
                    staged.g[r * pitch + c] = pointer(g, box.at.g + r * box.down.g + c *
                        box.along.g);
                if (box.turned >> 2 & 1)
                    staged.m[r * pitch + c] = pointer(m, box.at.m + r * box.down.m + c *
                        box.along.m);
                if (box.turned >> 3 & 1)
                    staged.v[r * pitch + c] = pointer(v, box.at.v + r * box.down.v + c *
                        box.along.v);
            }
            __syncthreads();
        }
        #pragma unroll 1
        for (unsigned i = threadIdx.x; i < size; i += THREADS) {
            const unsigned r = i / box.columns, c = i % box.columns;
            float w_i = take(box.turned >> 0 & 1, staged.w[r * pitch + c], pointer(w, box.at.w + r *
                box.down.w + c * box.along.w));
            float g_i = take(box.turned >> 1 & 1, staged.g[r * pitch + c], pointer(g, box.at.g + r *
                box.down.g + c * box.along.g));
            float m_i = take(box.turned >> 2 & 1, staged.m[r * pitch + c], pointer(m, box.at.m + r *
                box.down.m + c * box.along.m));
            float v_i = take(box.turned >> 3 & 1, staged.v[r * pitch + c], pointer(v, box.at.v + r *
                box.down.v + c * box.along.v));
            update(h, w_i, g_i, m_i, v_i);
            put(box.turned >> 0 & 1, staged.w[r * pitch + c], pointer(w, box.at.w + r * box.down.w +
                c * box.along.w), w_i);
            put(box.turned >> 2 & 1, staged.m[r * pitch + c], pointer(m, box.at.m + r * box.down.m +
                c * box.along.m), m_i);
            put(box.turned >> 3 & 1, staged.v[r * pitch + c], pointer(v, box.at.v + r * box.down.v +
                c * box.along.v), v_i);
        }
        if (box.turned) {
            __syncthreads();
            #pragma unroll 1
            for (unsigned i = threadIdx.x; i < size; i += THREADS) {
                const unsigned r = i % box.rows, c = i / box.rows;
                if (box.turned >> 0 & 1)
                    pointer(w, box.at.w + r * box.down.w + c * box.along.w) = staged.w[r * pitch +
                        c];
                if (box.turned >> 2 & 1)
                    pointer(m, box.at.m + r * box.down.m + c * box.along.m) = staged.m[r * pitch +
                        c];
                if (box.turned >> 3 & 1)
                    pointer(v, box.at.v + r * box.down.v + c * box.along.v) = staged.v[r * pitch +
                        c];
            }
        }
    }
}
