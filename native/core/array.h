// The arrays of a packed weight: built as vectors, or seen in memory that something else holds (a mapped file).
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/aligned.h"
#include "core/stream.h"

namespace rarefy {

// Both kinds begin on a cache line. What is seen elsewhere is never written: the memory may be read-only.
template <class T, class Allocator = LineAllocator<T>>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);
  using Held = std::vector<T, Allocator>;

 public:
  using value_type = T;

  Array() = default;
  Array(Array&&) noexcept = default;
  Array& operator=(Array&&) noexcept = default;

  // Gives up what is held. The memory outlives this array.
  void see(const T* values, std::size_t size) {
    held_ = Held();
    seen_ = size == 0 ? nullptr : values;
    seen_size_ = size;
  }

  const T* data() const noexcept { return seen_ != nullptr ? seen_ : held_.data(); }
  std::size_t size() const noexcept { return seen_ != nullptr ? seen_size_ : held_.size(); }
  bool empty() const noexcept { return size() == 0; }
  const T* begin() const noexcept { return data(); }
  const T* end() const noexcept { return data() + size(); }
  const T& operator[](std::size_t i) const noexcept { return data()[i]; }
  const T& back() const noexcept { return data()[size() - 1]; }

  // For whoever builds it, as of std::vector.
  T* data() noexcept { return seen_ != nullptr ? const_cast<T*>(seen_) : held_.data(); }
  T* begin() noexcept { return data(); }
  T* end() noexcept { return data() + size(); }
  T& operator[](std::size_t i) noexcept { return data()[i]; }
  T& back() noexcept { return data()[size() - 1]; }
  void push_back(const T& value) { held_.push_back(value); }
  void resize(std::size_t size) { held_.resize(size); }
  void assign(std::size_t size, const T& value) { held_.assign(size, value); }
  void shrink_to_fit() { held_.shrink_to_fit(); }
  template <class From>
  void append(From first, From last) {
    held_.insert(held_.end(), first, last);
  }

 private:
  Held held_;
  const T* seen_ = nullptr;  // null: what is held
  std::size_t seen_size_ = 0;
};

using Stream = Array<std::uint8_t, StreamAllocator<std::uint8_t>>;

}  // namespace rarefy
