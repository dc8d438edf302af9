// Memory for what a product streams through once: contiguous, and in large pages where it fills some.
#pragma once

#include <cstddef>
#include <new>

#include "core/aligned.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rarefy {

// Small pages cost a third of the read bandwidth (a look-up every 64 lines, and the hardware stops prefetching at each).
// Only pages that the array fills entirely are asked for, so none is paid for twice.
template <class T>
struct StreamAllocator {
  using value_type = T;
  StreamAllocator() noexcept = default;
  template <class U>
  StreamAllocator(const StreamAllocator<U>&) noexcept {}
  static constexpr std::size_t page = std::size_t{2} << 20;
  static std::align_val_t alignment(std::size_t bytes) { return std::align_val_t{bytes >= page ? page : 64}; }
#if defined(RAREFY_GUARDED)
  T* allocate(std::size_t n) { return static_cast<T*>(allocate_lines(n * sizeof(T))); }
  void deallocate(T* p, std::size_t n) noexcept { release_lines(p, n * sizeof(T)); }
#else
  T* allocate(std::size_t n) {
    const std::size_t bytes = n * sizeof(T);
    void* const p = ::operator new(bytes, alignment(bytes));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= page) madvise(p, bytes / page * page, MADV_HUGEPAGE);  // advice: without it the array is as good, only slower
#endif
    return static_cast<T*>(p);
  }
  void deallocate(T* p, std::size_t n) noexcept { ::operator delete(p, alignment(n * sizeof(T))); }
#endif
  bool operator==(const StreamAllocator&) const noexcept { return true; }
};

}  // namespace rarefy
