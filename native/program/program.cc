#include "program/program.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace rarefy::program {
namespace {

constexpr std::size_t line = 64;
// Vectors may read up to one past the end of a row that they then mask.
constexpr std::size_t slack = 64;

std::size_t round_up(std::size_t bytes) { return (bytes + slack + line - 1) / line * line; }

double now() {
  return static_cast<double>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

}  // namespace

int Program::push(Buffer buffer) {
  for (const int symbol : buffer.bytes.symbols)
    if (symbol < 0 || symbol >= symbols_) throw std::invalid_argument("program: no such symbol");
  buffers_.push_back(std::move(buffer));
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::given(int argument) {
  if (argument < 0 || argument >= arguments_) throw std::invalid_argument("program: no such argument");
  return push({Buffer::Where::given, nullptr, argument, {}});
}

int Program::constant(const void* address) {
  return push({Buffer::Where::constant, const_cast<void*>(address), 0, {}});
}

int Program::arena(Size bytes, int slot) {
  if (slot < 0 || bytes.constant < 0) throw std::invalid_argument("program: a negative slot or size");
  slots_ = std::max(slots_, slot + 1);
  return push({Buffer::Where::arena, nullptr, slot, std::move(bytes)});
}

void Program::add(std::unique_ptr<Instruction> instruction) { instructions_.push_back(std::move(instruction)); }

std::vector<const char*> Program::kinds() const {
  std::vector<const char*> out;
  for (const auto& instruction : instructions_) out.push_back(instruction->kind());
  return out;
}

Program::Lease Program::lease() const {
  std::unique_ptr<Arena> arena;
  {
    const std::lock_guard<std::mutex> hold(guard_);
    if (!idle_.empty()) {
      arena = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (arena == nullptr) {
    ++allocations_;
    arena = std::make_unique<Arena>();
    arena->symbols.resize(symbols_);
    arena->given.resize(arguments_);
    arena->buffers.resize(buffers_.size());
    arena->slots.resize(slots_);
  }
  return Lease(*this, std::move(arena));
}

Program::Lease::~Lease() {
  const std::lock_guard<std::mutex> hold(program_.guard_);
  program_.idle_.push_back(std::move(arena_));
}

void Program::place(Arena& arena) const {
  const std::int64_t* symbols = arena.symbols.data();
  std::fill(arena.slots.begin(), arena.slots.end(), 0);
  for (const Buffer& b : buffers_)
    if (b.where == Buffer::Where::arena)
      arena.slots[b.index] = std::max(arena.slots[b.index], static_cast<std::size_t>(b.bytes.at(symbols)));
  std::size_t total = 0;
  for (std::size_t& slot : arena.slots) {
    const std::size_t size = round_up(slot);
    slot = total;
    total += size;
  }
  if (total > arena.bytes) {
    ++allocations_;
    arena.bytes = total;
  }
  char* const base = reinterpret_cast<char*>(arena.memory.at_least(arena.bytes / sizeof(float)));
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    const Buffer& b = buffers_[i];
    arena.buffers[i] = b.where == Buffer::Where::constant ? static_cast<char*>(b.address)
                       : b.where == Buffer::Where::given  ? static_cast<char*>(arena.given[b.index])
                                                          : base + arena.slots[b.index];
  }
}

void Program::run(Arena& arena, int threads, double* nanoseconds) const {
  place(arena);
  const Frame frame{arena.symbols.data(), arena.buffers.data(), threads};
  if (nanoseconds == nullptr) {
    for (const auto& instruction : instructions_) instruction->run(frame);
    return;
  }
  double before = now();
  for (const auto& instruction : instructions_) {
    instruction->run(frame);
    const double after = now();
    *nanoseconds++ += after - before;
    before = after;
  }
}

}  // namespace rarefy::program
