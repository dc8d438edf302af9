// How fast memory can be read: 64 bytes at a time, fetched in advance, in large pages where the system has them, by the
// threads that the kernels use.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/stream.h"
#include "ops/parallel.h"

namespace {

__attribute__((target("avx2"))) std::uint64_t read(const std::uint8_t* p, std::size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (std::size_t i = 0; i + 128 <= bytes; i += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4160), _MM_HINT_T0);
    const auto* const at = reinterpret_cast<const __m256i*>(p + i);
    a = _mm256_add_epi64(a, _mm256_load_si256(at));
    b = _mm256_add_epi64(b, _mm256_load_si256(at + 1));
    c = _mm256_add_epi64(c, _mm256_load_si256(at + 2));
    d = _mm256_add_epi64(d, _mm256_load_si256(at + 3));
  }
  a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
  return static_cast<std::uint64_t>(_mm256_extract_epi64(a, 0) + _mm256_extract_epi64(a, 3));
}

}  // namespace

// GB/s of the fastest of `rounds` passes of `threads` threads over 128 MiB.
extern "C" __attribute__((visibility("default"))) double read_gigabytes(int threads, int rounds) {
  constexpr std::size_t size = std::size_t{128} << 20;
  static std::vector<std::uint8_t, rarefy::StreamAllocator<std::uint8_t>> data(size, 1);
  static volatile std::uint64_t sums[64];  // volatile: or nothing would be read
  double best = 0.0;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    const std::size_t share = size / threads / 128 * 128;
    rarefy::parallel_for(static_cast<std::size_t>(threads), threads, [&](std::size_t t) { sums[t] = read(data.data() + t * share, share); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(share) * threads / took.count() / 1e9);
  }
  return best;
}
