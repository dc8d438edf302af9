// A cache-line aligned array that only grows: packed weights and per-thread scratch.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "core/guarded.h"

namespace rarefy {

#if defined(RAREFY_GUARDED)
inline void* allocate_lines(std::size_t bytes) { return guarded::allocate(bytes); }
inline void release_lines(void* block, std::size_t bytes) noexcept { guarded::release(block, bytes); }
#else
inline void* allocate_lines(std::size_t bytes) { return ::operator new(bytes, std::align_val_t{64}); }
inline void release_lines(void* block, std::size_t) noexcept { ::operator delete(block, std::align_val_t{64}); }
#endif

template <class T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() noexcept = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) noexcept {}
  T* allocate(std::size_t n) { return static_cast<T*>(allocate_lines(n * sizeof(T))); }
  void deallocate(T* p, std::size_t n) noexcept { release_lines(p, n * sizeof(T)); }
  bool operator==(const LineAllocator&) const noexcept { return true; }
};

template <class T>
using AlignedVector = std::vector<T, LineAllocator<T>>;

// Uninitialised floats on a cache-line boundary; `at_least` keeps the block when it is large enough.
class Scratch {
 public:
  float* at_least(std::size_t floats) {
    if (floats > size_) {
      block_ = {static_cast<float*>(allocate_lines(floats * sizeof(float))), Free{floats}};
      size_ = floats;
    }
    return block_.get();
  }

 private:
  struct Free {
    std::size_t floats;
    void operator()(float* p) const noexcept { release_lines(p, floats * sizeof(float)); }
  };
  std::unique_ptr<float, Free> block_{nullptr, Free{0}};
  std::size_t size_ = 0;
};

}  // namespace rarefy
