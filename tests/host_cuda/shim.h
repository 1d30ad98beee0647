// Runs CUDA C++ on the host: each thread of a block is a fiber, which runs until it waits for the others. For tests only.
// Blocks run one after the other. Dynamic shared memory is filled with NaN before each, so reading what nobody wrote shows.
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>
#include <ucontext.h>

#define ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) char* name = host::shared.data()

struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {
enum State { READY, AT_BLOCK, AT_WARP, DONE };
struct Fiber { ucontext_t context; jmp_buf at; bool begun; State state; unsigned shuffles; std::vector<char> stack; };
static std::vector<Fiber> fibers;
static std::vector<char> shared;
static std::function<void()> kernel;
static jmp_buf scheduler;
static ucontext_t first;
static double exchanged[2][1024];
static unsigned current;

static void wait_as(State state) {
  fibers[current].state = state;
  if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}
static void enter() { kernel(); fibers[current].state = DONE; _longjmp(scheduler, 1); }

// Threads from..to wait alike and none is ready: let them go on. Threads that have returned do not count, as on a GPU.
static bool release(unsigned from, unsigned to, State state) {
  bool any = false;
  for (unsigned i = from; i < to; i++) {
    if (fibers[i].state != state && fibers[i].state != DONE) return false;
    any |= fibers[i].state == state;
  }
  for (unsigned i = from; i < to; i++) if (fibers[i].state == state) fibers[i].state = READY;
  return any;
}
static void run_block() {
  unsigned size = fibers.size();
  for (auto& fiber : fibers) { fiber.begun = false; fiber.state = READY; fiber.shuffles = 0; }
  for (;;) {
    bool ran = false, over = true;
    for (volatile unsigned i = 0; i < size; i = i + 1) {
      if (fibers[i].state != READY) continue;
      ran = true; current = i; threadIdx = {i, 0, 0};
      if (!_setjmp(scheduler)) {
        if (fibers[i].begun) _longjmp(fibers[i].at, 1);
        fibers[i].begun = true;
        getcontext(&fibers[i].context);
        fibers[i].context.uc_stack.ss_sp = fibers[i].stack.data();
        fibers[i].context.uc_stack.ss_size = fibers[i].stack.size();
        makecontext(&fibers[i].context, enter, 0);
        swapcontext(&first, &fibers[i].context);
      }
    }
    for (auto& fiber : fibers) over &= fiber.state == DONE;
    if (over) return;
    bool released = release(0, size, AT_BLOCK);
    for (unsigned warp = 0; warp < size; warp += 32) released |= release(warp, std::min(warp + 32, size), AT_WARP);
    if (!ran && !released) { fprintf(stderr, "threads of a block wait at different barriers\n"); abort(); }
  }
}
template <class... A, size_t... I>
static void run(void (*f)(A...), void** args, std::index_sequence<I...>) {
  kernel = [=] { f(*(A*)args[I]...); };
  for (unsigned z = 0; z < gridDim.z; z++) for (unsigned y = 0; y < gridDim.y; y++) for (unsigned x = 0; x < gridDim.x; x++) {
    blockIdx = {x, y, z};
    memset(shared.data(), 0xff, shared.size());
    run_block();
  }
}
template <class... A>
static void launch(void (*f)(A...), const unsigned* grid, unsigned block, size_t shared_bytes, void** args) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block, 1, 1};
  fibers.resize(block);
  for (auto& fiber : fibers) fiber.stack.resize(1 << 16);
  shared.resize(shared_bytes);
  run(f, args, std::index_sequence_for<A...>());
}
}  // namespace host

static void __syncthreads() { host::wait_as(host::AT_BLOCK); }
static void __syncwarp(unsigned = 0) { host::wait_as(host::AT_WARP); }
template <class T> static T host_shuffle(T value, unsigned lane) {
  auto& mine = host::fibers[host::current];
  double* slots = host::exchanged[mine.shuffles++ & 1];  // two sets of slots, so that nobody overwrites what others have yet to read
  slots[host::current] = value;
  __syncwarp();
  return slots[(host::current & ~31u) | lane];
}
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) { return host_shuffle(value, (host::current & 31) ^ mask); }
template <class T> static T __shfl_sync(unsigned, T value, int lane) { return host_shuffle(value, lane & 31); }

static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static float half_to_float(unsigned short bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
  return bits >> 15 ? -size : size;
}
static unsigned short float_to_half(float x) {
  unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  float size = fabsf(x);
  if (size != size) return sign | 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  int exponent = std::max(size ? ilogbf(size) : -15, -14);
  unsigned units = lrintf(ldexpf(size, 10 - exponent));  // to the nearest, ties to even
  return sign | (units < 1024 ? units : units + ((exponent + 14) << 10));
}
