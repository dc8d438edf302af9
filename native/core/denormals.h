// Flush-to-zero for the length of a scope. Denormals make the arithmetic of a pruned network up to ten times slower.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace rarefy {

// Sets FTZ and DAZ in this thread and restores what was there: the caller's thread works too, and it is not ours.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
#else
  FlushDenormals() noexcept = default;
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  unsigned saved_;
#endif
};

}  // namespace rarefy
