// One step of a program: what it reads and writes are parts of numbered buffers, and its sizes come with the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rarefy::program {

// A size known at the call: a constant times some of the call's symbols (batch, length, ...).
struct Size {
  std::int64_t constant = 0;
  std::vector<int> symbols;

  std::int64_t at(const std::int64_t* values) const noexcept {
    std::int64_t product = constant;
    for (const int symbol : symbols) product *= values[symbol];
    return product;
  }
};

// Where an operand begins: so many of its elements into a buffer. Buffer -1: there is no such operand.
struct Part {
  int buffer = -1;
  Size offset;
};

// What a call has: the values of its symbols, and where each buffer lies.
struct Frame {
  const std::int64_t* symbols;
  char* const* buffers;
  int threads;

  template <class T>
  T* at(const Part& part) const noexcept {
    return part.buffer < 0 ? nullptr : reinterpret_cast<T*>(buffers[part.buffer]) + part.offset.at(symbols);
  }
  std::ptrdiff_t size(const Size& s) const noexcept { return static_cast<std::ptrdiff_t>(s.at(symbols)); }
};

class Instruction {
 public:
  virtual ~Instruction() = default;
  virtual const char* kind() const noexcept = 0;  // what a profile adds up under
  virtual void run(const Frame&) const = 0;
};

}  // namespace rarefy::program
