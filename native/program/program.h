// A list of instructions over numbered buffers, run at the sizes of each call. Immutable once built: any number of
// threads may run it at once, each call in an arena of its own; arenas are kept, so that later calls allocate nothing.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "core/aligned.h"
#include "program/instruction.h"

namespace rarefy::program {

// The memory of one call. The caller of `Program::lease` fills in symbols and given.
struct Arena {
  std::vector<std::int64_t> symbols;
  std::vector<void*> given;  // by argument
  std::vector<char*> buffers;
  std::vector<std::size_t> slots;  // bytes, then offsets
  Scratch memory;
  std::size_t bytes = 0;
};

// How a call falls into parts of its batch. symbols: those that are its size; each: of a part, at least 1; steps: bytes from
// one entry of the batch to the next of each argument, 0 for one that all parts read.
struct Apart {
  std::vector<int> symbols;
  std::int64_t each = 1;
  std::vector<std::int64_t> steps;
};

class Program {
 public:
  explicit Program(int symbols, int arguments) : symbols_(symbols), arguments_(arguments) {}

  // A buffer each; they give its number. given: the address comes with the call. slot: buffers of one slot share memory,
  // for they are not alive together.
  int given(int argument);
  int constant(const void* address);
  int arena(Size bytes, int slot);
  void add(std::unique_ptr<Instruction> instruction);

  class Lease;
  Lease lease() const;
  // nanoseconds: null, or one entry an instruction, added to.
  void run(Arena& arena, int threads, double* nanoseconds) const;
  // The same on parts of the batch, each by one thread from the first instruction to the last: what lies between them stays
  // in that thread's cache, and no thread waits for another but at the end.
  void run_apart(const Arena& whole, const Apart& apart, int threads) const;

  int symbols() const noexcept { return symbols_; }
  int arguments() const noexcept { return arguments_; }
  std::vector<const char*> kinds() const;
  // How often a call has had to allocate: an arena, or more memory for one.
  long allocations() const noexcept { return allocations_; }

 private:
  struct Buffer {
    enum class Where { given, constant, arena } where;
    void* address;
    int index;  // argument or slot
    Size bytes;
  };
  int push(Buffer buffer);
  std::unique_ptr<Arena> take() const;
  void put_back(std::unique_ptr<Arena> arena) const;
  void place(Arena& arena) const;

  int symbols_, arguments_, slots_ = 0;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Instruction>> instructions_;
  mutable std::mutex guard_;
  mutable std::vector<std::unique_ptr<Arena>> idle_;
  mutable std::atomic<long> allocations_{0};
};

// An arena for the length of a scope.
class Program::Lease {
 public:
  Lease(const Program& program, std::unique_ptr<Arena> arena) : program_(program), arena_(std::move(arena)) {}
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Arena& operator*() const noexcept { return *arena_; }

 private:
  const Program& program_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace rarefy::program
