// What a core can do at most with 8-bit dot products: independent sums in registers, nothing loaded.
#include <immintrin.h>

#include <cstdint>

#include "core/regions.h"

RAREFY_BEGIN_VNNI
// Multiply-adds done: 12 sums, 64 products each, `rounds` times.
extern "C" __attribute__((visibility("default"))) std::int64_t vnni_products(std::int64_t rounds) {
  __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0, s10 = s0,
          s11 = s0;
  const __m512i x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(1);
  for (std::int64_t i = 0; i < rounds; ++i)  // written out: the compiler would move the sums to memory and back
    __asm__ volatile(
        "vpdpbusd %13, %12, %0\n vpdpbusd %13, %12, %1\n vpdpbusd %13, %12, %2\n vpdpbusd %13, %12, %3\n"
        "vpdpbusd %13, %12, %4\n vpdpbusd %13, %12, %5\n vpdpbusd %13, %12, %6\n vpdpbusd %13, %12, %7\n"
        "vpdpbusd %13, %12, %8\n vpdpbusd %13, %12, %9\n vpdpbusd %13, %12, %10\n vpdpbusd %13, %12, %11\n"
        : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11)
        : "v"(x), "v"(w));
  return rounds * 12 * 64;
}
RAREFY_END_REGION
