// A packed weight as flat bytes: a header, then its fields one after the other, arrays on cache lines, so that whoever
// maps the bytes can compute with them where they lie.
//
// A struct tells its fields once, for writing and for reading:
//   template <class Self, class Archive>
//   static void fields(Self& self, Archive& archive) {
//     auto& [out, in, kernel, values] = self;  // every member: a new one does not compile until it stands here
//     archive(out, in, values);
//   }
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "core/array.h"

namespace rarefy {

// Changes with the order of what is written; what the fields mean belongs to the build that wrote them.
inline constexpr std::uint64_t blob_version = 2;
inline constexpr std::size_t blob_line = 64;

// Any change of one word changes it; of several, but for one in 2^64. Not made against those who mean harm.
std::uint64_t checksum(const std::uint8_t* bytes, std::size_t size) noexcept;

namespace blob {

struct Header {
  char magic[8];
  std::uint64_t version, bytes, sum;  // bytes: of all, with the header; sum: of what is behind it
  char kernel[96];
};
static_assert(sizeof(Header) % blob_line == 0);

constexpr std::size_t aligned(std::size_t at) { return (at + blob_line - 1) / blob_line * blob_line; }

template <class T>
struct IsArray : std::false_type {};
template <class T, class Allocator>
struct IsArray<Array<T, Allocator>> : std::true_type {};

template <class T, class Archive>
concept HasFields = requires(T& t, Archive& a) { T::fields(t, a); };

}  // namespace blob

class BlobWriter {
 public:
  // to: null counts only.
  explicit BlobWriter(std::uint8_t* to = nullptr) : to_(to) {}

  template <class... Fields>
  void operator()(const Fields&... fields) {
    (put(fields), ...);
  }
  // Writes the header; gives the bytes of all.
  std::size_t finish(const std::string& kernel);

 private:
  template <class T>
  void put(const T& value) {
    if constexpr (blob::IsArray<T>::value) {
      put(value.size());
      pad();
      copy(value.data(), value.size() * sizeof(typename T::value_type));
    } else if constexpr (blob::HasFields<const T, BlobWriter>) {
      T::fields(value, *this);
    } else {
      static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
      copy(&value, sizeof value);
    }
  }
  void copy(const void* from, std::size_t bytes);
  void pad();

  std::uint8_t* to_;
  std::size_t at_ = sizeof(blob::Header);
};

class BlobReader {
 public:
  // bytes: on a cache line, and alive as long as what is read. Throws std::invalid_argument for what is no whole,
  // unchanged blob of this version and kernel.
  BlobReader(const std::uint8_t* bytes, std::size_t size, const std::string& kernel);

  // Arrays see the bytes, the rest is copied. Throws std::invalid_argument where they end too early.
  template <class... Fields>
  void operator()(Fields&... fields) {
    (take(fields), ...);
  }
  // Throws std::invalid_argument where bytes are left.
  void finish() const;

 private:
  template <class T>
  void take(T& value) {
    if constexpr (blob::IsArray<T>::value) {
      using Item = typename T::value_type;
      std::size_t size = 0;
      take(size);
      at_ = blob::aligned(at_);
      require_left(size, sizeof(Item));
      value.see(reinterpret_cast<const Item*>(bytes_ + at_), size);
      at_ += size * sizeof(Item);
    } else if constexpr (blob::HasFields<T, BlobReader>) {
      T::fields(value, *this);
    } else {
      static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
      require_left(1, sizeof value);
      std::memcpy(&value, bytes_ + at_, sizeof value);
      at_ += sizeof value;
    }
  }
  void require_left(std::size_t count, std::size_t each) const;

  const std::uint8_t* bytes_;
  std::size_t size_, at_ = sizeof(blob::Header);
};

}  // namespace rarefy
