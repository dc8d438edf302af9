#include "core/mapping.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace rarefy {
namespace {

#if defined(MAP_POPULATE)
constexpr int at_once = MAP_POPULATE;  // all pages in a few steps, instead of a fault for every few of them
#else
constexpr int at_once = 0;
#endif

}  // namespace

Mapping::Mapping(const std::string& path) {
  const auto fail = [&](int file) {
    const std::string why = std::strerror(errno);
    if (file >= 0) close(file);
    throw std::runtime_error(path + ": cannot be mapped (" + why + ")");
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(file);
  struct stat said;
  if (fstat(file, &said) != 0) fail(file);
  size_ = static_cast<std::size_t>(said.st_size);
  if (size_ > 0) {
    void* const at = mmap(nullptr, size_, PROT_READ, MAP_SHARED | at_once, file, 0);
    if (at == MAP_FAILED) fail(file);
    bytes_ = static_cast<const std::uint8_t*>(at);
#if defined(MADV_HUGEPAGE)
    madvise(at, size_, MADV_HUGEPAGE);  // advice: few file systems have large pages
#endif
  }
  close(file);
}

Mapping::~Mapping() {
  if (bytes_ != nullptr) munmap(const_cast<std::uint8_t*>(bytes_), size_);
}

const std::uint8_t* Mapping::part(std::size_t at, std::size_t size) const {
  if (at > size_ || size > size_ - at)
    throw std::invalid_argument("mapped file: bytes [" + std::to_string(at) + ", " + std::to_string(at) + " + " +
                                std::to_string(size) + ") are not among its " + std::to_string(size_));
  return bytes_ + at;
}

}  // namespace rarefy
