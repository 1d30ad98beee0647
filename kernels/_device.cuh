// What the sources of the CUDA kernels share; it is put in front of each of them. Included files are avoided, because the
// compiler at hand (NVRTC) comes without CUDA's headers. The host's tests compile the same text as C++, see tests/host_cuda.
//
// ACC is the type that everything is computed in, float or double, defined by whoever compiles.

typedef long long index_t;
typedef ACC acc_t;

struct bf16 { unsigned short bits; };
struct fp16 { unsigned short bits; };

#ifndef ON_HOST
// The block's dynamic shared memory, aligned for any type.
#define SHARED_MEMORY(name) extern __shared__ double2 dynamic_shared_memory[]; char* name = (char*)dynamic_shared_memory
__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
  return result;
}
__device__ __forceinline__ unsigned short float_to_half(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
#endif

__device__ __forceinline__ acc_t wide(float x) { return x; }
__device__ __forceinline__ acc_t wide(double x) { return x; }
__device__ __forceinline__ acc_t wide(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ acc_t wide(fp16 x) { return half_to_float(x.bits); }

__device__ __forceinline__ void narrow(acc_t x, float* out) { *out = x; }
__device__ __forceinline__ void narrow(acc_t x, double* out) { *out = x; }
__device__ __forceinline__ void narrow(acc_t x, fp16* out) { out->bits = float_to_half(x); }
__device__ __forceinline__ void narrow(acc_t x, bf16* out) {  // to the nearest, ties to even
#if !defined(ON_HOST) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"((float)x));
#else
  unsigned bits = __float_as_uint(x);
  out->bits = x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#endif
}

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }

#define LOG2_E ((acc_t)1.4426950408889634)
#define LN_2 ((acc_t)0.6931471805599453)

__device__ __forceinline__ acc_t sigmoid(acc_t x) { return (acc_t)1 / ((acc_t)1 + power_of_two(-x * LOG2_E)); }
