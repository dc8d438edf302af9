// Memory for sanitized builds that ends at a page which cannot be touched: the compiler does not watch the masked and
// gathering vector accesses, so a stray one must be stopped by the machine. Slower by a system call or three.
#pragma once

#if defined(RAREFY_GUARDED)

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#endif

namespace rarefy::guarded {

inline constexpr std::size_t kLine = 64;

struct Header {  // at the start of the mapping, before what is handed out
  std::size_t mapped;
};

inline std::size_t pages(std::size_t bytes) {
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

// On a cache-line boundary; what the last line holds beyond `bytes` is poisoned for the accesses that are watched.
inline void* allocate(std::size_t bytes) {
  const std::size_t lines = (bytes + kLine - 1) / kLine * kLine, used = pages(lines + kLine), mapped = used + pages(1);
  if (lines < bytes || mapped < bytes) throw std::bad_alloc();
  char* at = static_cast<char*>(mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (at == MAP_FAILED) throw std::bad_alloc();
  reinterpret_cast<Header*>(at)->mapped = mapped;
  mprotect(at + used, mapped - used, PROT_NONE);
  char* given = at + used - lines;
  ASAN_POISON_MEMORY_REGION(at + sizeof(Header), static_cast<std::size_t>(given - at) - sizeof(Header));
  ASAN_POISON_MEMORY_REGION(given + bytes, lines - bytes);
  return given;
}

// `bytes` as given to allocate().
inline void release(void* given, std::size_t bytes) {
  if (given == nullptr) return;
  const std::size_t lines = (bytes + kLine - 1) / kLine * kLine, used = pages(lines + kLine);
  char* at = static_cast<char*>(given) + lines - used;
  ASAN_UNPOISON_MEMORY_REGION(at, used);
  munmap(at, reinterpret_cast<Header*>(at)->mapped);
}

}  // namespace rarefy::guarded

#endif
