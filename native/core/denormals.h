// Flush-to-zero for the length of a scope. Denormals make the arithmetic of a pruned network up to ten times slower.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace rarefy {

// The register of this thread that says how floats are rounded and whether denormals are flushed; 0 where it is not known.
inline std::uint64_t floating_point_state() noexcept {
#if defined(__x86_64__)
  return _mm_getcsr();
#elif defined(__aarch64__)
  std::uint64_t state;
  __asm__ volatile("mrs %0, fpcr" : "=r"(state));
  return state;
#else
  return 0;
#endif
}

inline void set_floating_point_state([[maybe_unused]] std::uint64_t state) noexcept {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(state));
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(state));
#endif
}

#if defined(__x86_64__)
inline constexpr std::uint64_t flush_denormals = 0x8040;  // FTZ and DAZ: of results and of inputs
#else
inline constexpr std::uint64_t flush_denormals = std::uint64_t{1} << 24;  // FZ: of both
#endif

// Restores what was there: the caller's thread works too, and it is not ours.
class FlushDenormals {
 public:
  FlushDenormals() noexcept : saved_(floating_point_state()) { set_floating_point_state(saved_ | flush_denormals); }
  ~FlushDenormals() { set_floating_point_state(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace rarefy
