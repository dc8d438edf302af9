// A file's own pages, read-only: all processes that map it share them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rarefy {

class Mapping {
 public:
  // Throws std::runtime_error where the file cannot be opened or mapped.
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Throws std::invalid_argument where [at, at + size) is not within the file.
  const std::uint8_t* part(std::size_t at, std::size_t size) const;
  std::size_t size() const noexcept { return size_; }

 private:
  const std::uint8_t* bytes_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rarefy
