// The selective scan and its gradients, see definition.py, on tensors of any strides.
//
//   T       steps of a tile, which a thread walks in registers      S       states whose B and C are staged at a time
//   N       states of a channel                                     width   channels of a group
//   x       u                                                       d       softplus(delta + bias)         dx  d x
//   decay   A log2 e, so that a = 2^(d decay)                       h       the state: h = a h + dx B
//   y       <C, h> + D x                                            dy      the gradient of y
//   g       the gradient of h                                       q       the gradient of d A
//   segment a stretch of time that a block walks                    border  h before a tile
//   end     of a segment: h after its last step                     total   of a segment: the sum of d
//
// One thread walks one channel of one segment, tile by tile; lanes are neighbouring channels, so that channel-last memory is read
// in whole sectors. Within a tile it takes the states one by one: the T steps of a state are unrolled, and the running h (and, in
// the backward pass, g and the gradient of A) of all states stands in shared memory. The backward pass walks tiles from the last
// to the first and recomputes h from the border. Sums over channels (the gradients of B and C) are taken over the lanes of a
// warp, then over the warps of a block, then over blocks by torch; those over time in registers. No atomics: bits never change.
// Where rows are too few to fill a card, time is cut into segments: scan_ends finds h at their ends from zero, scan_carry
// carries it across them, and scan_forward starts each from there. Likewise g, by scan_adjoints, from the last to the first.
//
// With `reverse`, time runs from 1 - length to 0 and the steps between neighbours in memory are negative. Steps past the end and
// lanes past the last channel have d = x = dy = 0, so that h and g stay as they are.
//
// What bounds it, estimated from the machine code for sm_90 and not measured: 16 states, bfloat16, gate and softplus, for each
// channel and step. An H100's 528 schedulers take one instruction of 32 lanes a cycle, and 8 cycles for 2^x and the like.
//
//                   instructions   2^x, 1/x   bytes                            (16 x 90, 256, 512) at 1.755 GHz, 3.35 TB/s
//   scan_forward        186           19      8, for gradients 14              1.2 ms by instructions, 1.0 by 2^x, 0.8 by bytes
//   scan_backward       511           20      22                               3.2 ms by instructions, 1.2 by bytes
//   scan_ends           119           17      4, where time is cut
//   scan_adjoints       128           19      6, where time is cut
//
// 106 of the forward instructions and 368 of the backward ones are in the loops over states; 125 of the latter sum over lanes.

#include "scan.cuh"

// out, last_state, borders and, where there is z, y before the gate (the last two may be null); or, without OUTPUT, the ends from
// zero and the totals of all segments but the last.
template <bool OUTPUT>
__device__ __forceinline__ void forward(
    INPUTS, const acc_t* starts, U_TYPE* out, acc_t* last_state, acc_t* borders, Z_TYPE* ys, acc_t* ends, acc_t* totals) {
  PLACE(p);
  if (!OUTPUT && p.segment == segments - 1) return;
  const int N = states, threads = blockDim.x;
  acc_t* const h_ = memory() + threadIdx.x;  // [n][thread]
  acc_t* const staged = memory() + N * threads;
  const acc_t skip = D ? D[CHANNEL] : (acc_t)0, shift = bias ? bias[CHANNEL] : (acc_t)0;
  acc_t total = 0;
  int turn = 0;  // two stages take turns, so that a tile needs one barrier

#pragma unroll 1
  for (int n = 0; n < N; n++) h_[n * threads] = starts ? starts[STATES_AT(p.row) + (index_t)n * p.channels] : (acc_t)0;
  for (int t0 = p.begin; t0 < p.end; t0 += T) {
    const int steps = STEPS;
    const U_TYPE* u_tile = AT(u, t0);
    const DELTA_TYPE* delta_tile = AT(delta, t0);
    acc_t d[T], dx[T], y[T];
#pragma unroll
    for (int t = 0; t < T; t++) {
      const int at = t < steps ? t : steps - 1;
      const bool there = ACTIVE && t < steps;
      const acc_t read = get(u_tile, u_step, at), x = there ? read : (acc_t)0;
      const acc_t size = step_size(get(delta_tile, delta_step, at) + shift);
      d[t] = there ? size : (acc_t)0;
      dx[t] = d[t] * x;
      y[t] = skip * x;
      if (!OUTPUT) total += d[t];
    }
    acc_t* const border = OUTPUT && borders && ACTIVE ? BORDER : nullptr;
    int at = CHANNEL;  // of the state of the channel
    for (int n0 = 0; n0 < N; n0 += S, turn ^= 1) {
      const acc_t* row = staged + turn * STAGE;
      stage(GROUP_AT(B, t0), B_state, B_step, steps, n0, N, staged + turn * STAGE);
      if (OUTPUT) stage(GROUP_AT(C, t0), C_state, C_step, steps, n0, N, staged + turn * STAGE + S * ROW);
      __syncthreads();
      const int n1 = n0 + S < N ? n0 + S : N;
#pragma unroll 1
      for (int n = n0; n < n1; n++, row += ROW, at += p.channels) {
        const acc_t decay = A[at];
        acc_t h = h_[n * threads];
        if (border) border[at] = h;
#pragma unroll
        for (int quad = 0; quad < T / QUAD; quad++) {
          const Quad B_now = ((const Quad*)row)[quad], C_now = ((const Quad*)(row + S * ROW))[quad];
#pragma unroll
          for (int i = 0; i < QUAD; i++) {
            const int t = quad * QUAD + i;
            h = power_of_two(d[t] * decay) * h + dx[t] * B_now.of[i];
            if (OUTPUT) y[t] += h * C_now.of[i];
          }
        }
        h_[n * threads] = h;
      }
    }
    if (OUTPUT) {
      const int count = ACTIVE ? steps : 0;
      const Z_TYPE* z_tile = AT(z, t0);
      U_TYPE* out_now = CHANNEL_LAST_AT(out, t0);
      Z_TYPE* y_now = CHANNEL_LAST_AT(ys, t0);
      acc_t gate[T];
#pragma unroll
      for (int t = 0; t < T; t++) gate[t] = HAS_Z ? get(z_tile, z_step, t < steps ? t : steps - 1) : (acc_t)0;
#pragma unroll
      for (int t = 0; t < T; t++, out_now += p.made_step, y_now += p.made_step) {
        put(HAS_Z ? y[t] * (gate[t] * sigmoid(gate[t])) : y[t], out_now, t < count);
        if (HAS_Z) put(y[t], y_now, ys && t < count);
      }
    }
  }
  if (!ACTIVE) return;
  if (!OUTPUT) totals[(index_t)p.row * p.channels + CHANNEL] = total;
  if (OUTPUT && p.segment < segments - 1) return;
  acc_t* const kept = OUTPUT ? last_state + STATES_AT(p.batch) : ends + STATES_AT(p.row);
#pragma unroll 1
  for (int n = 0; n < N; n++) kept[(index_t)n * p.channels] = h_[n * threads];
}

extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS)
scan_forward(INPUTS, const acc_t* starts, U_TYPE* out, acc_t* last_state, acc_t* borders, Z_TYPE* ys) {
  forward<true>(GIVEN, starts, out, last_state, borders, ys, nullptr, nullptr);
}

extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_ends(INPUTS, acc_t* ends, acc_t* totals) {
  forward<false>(GIVEN, nullptr, nullptr, nullptr, nullptr, nullptr, ends, totals);
}

// What stands in `states` (batch, segments, N, channels), the ends of segments from zero, becomes what they start from:
// `first` (batch, N, channels) or zero in the first one. The order of segments is that of the scan, or its reverse.
extern "C" __global__ void __launch_bounds__(THREADS)
scan_carry(index_t size, index_t N, index_t channels, index_t segments, index_t descending, const acc_t* first, const acc_t* totals,
           const acc_t* A, acc_t* states) {
  const index_t thread = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= size) return;
  const index_t channel = thread % channels, in_batch = thread % (N * channels), batch = thread / (N * channels);
  const acc_t decay = A[in_batch];
  acc_t state = first ? first[thread] : (acc_t)0;
  for (index_t k0 = 0; k0 < segments; k0 += BATCH) {
    acc_t end[BATCH], total[BATCH];  // read before any is overwritten, so that they are waited for together
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const index_t k = k0 + i, row = batch * segments + (descending ? segments - 1 - k : k);
      const bool there = k < segments - 1;  // nobody starts from what the last one ends with
      end[i] = there ? states[row * N * channels + in_batch] : (acc_t)0;
      total[i] = there ? totals[row * channels + channel] : (acc_t)0;
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const index_t k = k0 + i, row = batch * segments + (descending ? segments - 1 - k : k);
      if (k < segments) states[row * N * channels + in_batch] = state;
      state = power_of_two(total[i] * decay) * state + end[i];
    }
  }
}

// The gradient of h before all segments but the first, from zero behind them, as their ends, and their totals.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS)
scan_adjoints(INPUTS, SERIES(U_TYPE, dout), acc_t* ends, acc_t* totals) {
  PLACE(p);
  if (p.segment == 0) return;
  const int N = states, threads = blockDim.x;
  acc_t* const g_ = memory() + threadIdx.x;  // [n][thread]
  acc_t* const staged = memory() + N * threads;
  const acc_t shift = bias ? bias[CHANNEL] : (acc_t)0;
  acc_t total = 0;
  int turn = 0;

#pragma unroll 1
  for (int n = 0; n < N; n++) g_[n * threads] = 0;
  for (int t0 = p.begin + (p.end - 1 - p.begin) / T * T; t0 >= p.begin; t0 -= T) {
    const int steps = STEPS;
    const DELTA_TYPE* delta_tile = AT(delta, t0);
    const Z_TYPE* z_tile = AT(z, t0);
    const U_TYPE* dout_tile = AT(dout, t0);
    acc_t d[T], dy[T];
#pragma unroll
    for (int t = 0; t < T; t++) {
      const int at = t < steps ? t : steps - 1;
      const bool there = ACTIVE && t < steps;
      const acc_t size = step_size(get(delta_tile, delta_step, at) + shift), read = get(dout_tile, dout_step, at);
      const acc_t gate = HAS_Z ? get(z_tile, z_step, at) : (acc_t)0;
      d[t] = there ? size : (acc_t)0;
      dy[t] = (there ? read : (acc_t)0) * (HAS_Z ? gate * sigmoid(gate) : (acc_t)1);
      total += d[t];
    }
    int at = CHANNEL;
    for (int n0 = 0; n0 < N; n0 += S, turn ^= 1) {
      const acc_t* row = staged + turn * STAGE;
      stage(GROUP_AT(C, t0), C_state, C_step, steps, n0, N, staged + turn * STAGE);
      __syncthreads();
      const int n1 = n0 + S < N ? n0 + S : N;
#pragma unroll 1
      for (int n = n0; n < n1; n++, row += ROW, at += p.channels) {
        const acc_t decay = A[at];
        acc_t g = g_[n * threads];
#pragma unroll
        for (int quad = T / QUAD - 1; quad >= 0; quad--) {
          const Quad C_now = ((const Quad*)row)[quad];
#pragma unroll
          for (int i = QUAD - 1; i >= 0; i--) {
            const int t = quad * QUAD + i;
            g = power_of_two(d[t] * decay) * (g + dy[t] * C_now.of[i]);
          }
        }
        g_[n * threads] = g;
      }
    }
  }
  if (!ACTIVE) return;
  totals[(index_t)p.row * p.channels + CHANNEL] = total;
#pragma unroll 1
  for (int n = 0; n < N; n++) ends[STATES_AT(p.row) + (index_t)n * p.channels] = g_[n * threads];
}

// All gradients. du (batch, length, channels), ddelta and dz are whole; dB and dC (blocks, batch, length, groups, N), dA (batch,
// segments, N, channels), dD and dbias (batch, segments, channels) are to be summed over blocks, or over batch and segments.
// ys is y as the forward pass left it, in z's type, as dz is.
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS)
scan_backward(INPUTS, SERIES(U_TYPE, dout), const acc_t* borders, const Z_TYPE* ys, const acc_t* starts, U_TYPE* du,
              DELTA_TYPE* ddelta, Z_TYPE* dz, acc_t* dB, acc_t* dC, acc_t* dA, acc_t* dD, acc_t* dbias) {
  PLACE(p);
  const int N = states, threads = blockDim.x;
  acc_t* const g_ = memory() + threadIdx.x;                            // [n][thread]
  acc_t* const dA_ = memory() + N * threads + threadIdx.x;           // [n][thread]
  acc_t* const own = memory() + 2 * N * threads + threadIdx.x;       // dD, dbias, D and bias [thread]
  acc_t* const staged = memory() + (2 * N + 4) * threads;
  acc_t* const sums = staged + STAGE;                              // [warp][n][SUMS]
  const int warps = threads / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

#pragma unroll 1
  for (int n = 0; n < N; n++) {
    g_[n * threads] = starts && ACTIVE ? starts[STATES_AT(p.row) + (index_t)n * p.channels] : (acc_t)0;
    dA_[n * threads] = 0;
  }
  own[0] = own[threads] = 0;
  own[2 * threads] = D ? D[CHANNEL] : (acc_t)0;
  own[3 * threads] = bias ? bias[CHANNEL] : (acc_t)0;
  for (int t0 = p.begin + (p.end - 1 - p.begin) / T * T; t0 >= p.begin; t0 -= T) {
    acc_t d[T], dx[T], dy[T], dd[T], ddx[T];
    {
      const int steps = STEPS;
      const U_TYPE* u_tile = AT(u, t0);
      const DELTA_TYPE* delta_tile = AT(delta, t0);
      const Z_TYPE* z_tile = AT(z, t0);
      const U_TYPE* dout_tile = AT(dout, t0);
      const Z_TYPE* y_tile = CHANNEL_LAST_AT(ys, t0);
      Z_TYPE* dz_now = CHANNEL_LAST_AT(dz, t0);
      acc_t gate[T], y[T];
#pragma unroll
      for (int half = 0; half < T; half += T / 2) {  // half a tile is asked for before anything is waited for
#pragma unroll
        for (int t = half; t < half + T / 2; t++) {
          const int at = t < steps ? t : steps - 1;
          d[t] = get(delta_tile, delta_step, at);
          dx[t] = get(u_tile, u_step, at);
          dy[t] = get(dout_tile, dout_step, at);
          gate[t] = HAS_Z ? get(z_tile, z_step, at) : (acc_t)0;
          y[t] = HAS_Z ? get(y_tile, p.made_step, at) : (acc_t)0;
        }
#pragma unroll
        for (int t = half; t < half + T / 2; t++, dz_now += p.made_step) {
          const bool there = ACTIVE && t < steps;
          const acc_t size = step_size(d[t] + own[3 * threads]);
          d[t] = there ? size : (acc_t)0;
          dx[t] = there ? size * dx[t] : (acc_t)0;
          dy[t] = there ? dy[t] : (acc_t)0;
          if (HAS_Z) {
            const acc_t s = sigmoid(gate[t]);
            put(dy[t] * y[t] * (s * (1 + gate[t] * (1 - s))), dz_now, there);
            dy[t] *= gate[t] * s;
          }
          dd[t] = ddx[t] = 0;
        }
      }
    }
    const acc_t* const border = BORDER;
    int next_at = CHANNEL;
    acc_t next_h = border[next_at];  // fetched while the state before is worked on
    for (int n0 = 0; n0 < N; n0 += S) {
      stage(GROUP_AT(B, t0), B_state, B_step, STEPS, n0, N, staged);
      stage(GROUP_AT(C, t0), C_state, C_step, STEPS, n0, N, staged + S * ROW);
      __syncthreads();
#pragma unroll 1
      for (int n = n0; n < N && n < n0 + S; n++) {
        const acc_t* row = staged + (n - n0) * ROW;
        const acc_t decay = A[next_at];
        acc_t h = next_h;
        next_at += p.channels;
        if (n + 1 < N) next_h = border[next_at];
        acc_t a[T], kept[T], v[T];  // kept: of h, from the step before
#pragma unroll
        for (int quad = 0; quad < T / QUAD; quad++) {
          const Quad B_now = ((const Quad*)row)[quad];
#pragma unroll
          for (int i = 0; i < QUAD; i++) {
            const int t = quad * QUAD + i;
            a[t] = power_of_two(d[t] * decay);
            kept[t] = a[t] * h;
            h = kept[t] + dx[t] * B_now.of[i];
            v[t] = dy[t] * h;
          }
        }
        acc_t* const sum_row = sums + (warp * S + n - n0) * SUMS + lane;
        const acc_t dC_sum = lane_sums(v);
        if (lane < T) sum_row[0] = dC_sum;
        acc_t g = g_[n * threads], ddecay = 0;
#pragma unroll
        for (int quad = T / QUAD - 1; quad >= 0; quad--) {
          const Quad B_now = ((const Quad*)row)[quad], C_now = ((const Quad*)(row + S * ROW))[quad];
#pragma unroll
          for (int i = QUAD - 1; i >= 0; i--) {
            const int t = quad * QUAD + i;
            g += dy[t] * C_now.of[i];
            v[t] = g * dx[t];
            ddx[t] += g * B_now.of[i];
            const acc_t q = g * kept[t];
            dd[t] += q * decay;
            ddecay += q * d[t];
            g *= a[t];
          }
        }
        g_[n * threads] = g;
        dA_[n * threads] += ddecay;
        const acc_t dB_sum = lane_sums(v);
        if (lane < T) sum_row[T] = dB_sum;
      }
      __syncthreads();
      const int n = threadIdx.x % S;
      if (n0 + n < N) {
#pragma unroll 1
        for (int t = threadIdx.x / S; t < STEPS; t += threads / S) {
          acc_t dC_sum = 0, dB_sum = 0;
#pragma unroll 1
          for (int k = 0; k < warps; k++) {
            dC_sum += sums[(k * S + n) * SUMS + t];
            dB_sum += sums[(k * S + n) * SUMS + T + t];
          }
          const index_t position = reverse ? -t0 - t : t0 + t;
          const index_t at = ((((index_t)p.block * batches + p.batch) * length + position) * groups + p.group) * N + n0 + n;
          dC[at] = dC_sum;
          dB[at] = dB_sum;
        }
      }
    }
    acc_t dskip = 0, dshift = 0;
    const int steps = STEPS, count = ACTIVE ? steps : 0;
    const U_TYPE* u_tile = AT(u, t0);
    const DELTA_TYPE* delta_tile = AT(delta, t0);
    U_TYPE* du_now = CHANNEL_LAST_AT(du, t0);
    DELTA_TYPE* ddelta_now = CHANNEL_LAST_AT(ddelta, t0);
    acc_t x[T], raw[T];
#pragma unroll
    for (int t = 0; t < T; t++) {
      const int at = t < steps ? t : steps - 1;
      x[t] = get(u_tile, u_step, at);
      raw[t] = get(delta_tile, delta_step, at) + own[3 * threads];
    }
#pragma unroll
    for (int t = 0; t < T; t++, du_now += p.made_step, ddelta_now += p.made_step) {
      const acc_t dstep = (dd[t] * LN_2 + ddx[t] * x[t]) * slope(raw[t]);
      dskip += t < count ? dy[t] * x[t] : (acc_t)0;
      dshift += t < count ? dstep : (acc_t)0;
      put(ddx[t] * d[t] + dy[t] * own[2 * threads], du_now, t < count);
      put(dstep, ddelta_now, t < count);
    }
    own[0] += dskip;
    own[threads] += dshift;
  }
  if (!ACTIVE) return;
#pragma unroll 1
  for (int n = 0; n < N; n++) dA[STATES_AT(p.row) + (index_t)n * p.channels] = dA_[n * threads];
  dD[(index_t)p.row * p.channels + CHANNEL] = own[0];
  dbias[(index_t)p.row * p.channels + CHANNEL] = own[threads];
}
