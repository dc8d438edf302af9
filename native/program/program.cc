#include "program/program.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <stdexcept>

#include "ops/parallel.h"

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

std::unique_ptr<Arena> Program::take() const {
  {
    const std::lock_guard<std::mutex> hold(guard_);
    if (!idle_.empty()) {
      std::unique_ptr<Arena> arena = std::move(idle_.back());
      idle_.pop_back();
      return arena;
    }
  }
  ++allocations_;
  auto arena = std::make_unique<Arena>();
  arena->symbols.resize(symbols_);
  arena->given.resize(arguments_);
  arena->buffers.resize(buffers_.size());
  arena->slots.resize(slots_);
  return arena;
}

void Program::put_back(std::unique_ptr<Arena> arena) const {
  const std::lock_guard<std::mutex> hold(guard_);
  idle_.push_back(std::move(arena));
}

Program::Lease Program::lease() const { return Lease(*this, take()); }

Program::Lease::~Lease() { program_.put_back(std::move(arena_)); }

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

void Program::run_apart(const Arena& whole, const Apart& apart, int threads) const {
  const std::int64_t batch = whole.symbols.at(apart.symbols.at(0)), parts = (batch + apart.each - 1) / apart.each;
  const std::size_t workers = static_cast<std::size_t>(std::min<std::int64_t>(std::max(threads, 1), parts));
  // Memory for the largest part is had here, where its want can be told.
  const auto size = [&](Arena& arena, std::int64_t entries) {
    for (const int symbol : apart.symbols) arena.symbols[symbol] = entries;
  };
  std::vector<std::unique_ptr<Lease>> leases;
  for (std::size_t w = 0; w < workers; ++w) {
    leases.push_back(std::make_unique<Lease>(*this, take()));
    Arena& arena = **leases.back();
    arena.symbols = whole.symbols;
    arena.given = whole.given;
    size(arena, std::min(apart.each, batch));
    place(arena);
  }
  const auto compute = [&](Arena& arena, std::int64_t part) {
    const std::int64_t first = part * apart.each;
    size(arena, std::min(apart.each, batch - first));
    for (std::size_t i = 0; i < arena.given.size(); ++i)
      arena.given[i] = static_cast<char*>(whole.given[i]) + first * apart.steps[i];
    run(arena, 1, nullptr);
  };
  // What a part throws is thrown here: the first part's, as if they had been computed in order.
  std::atomic<std::int64_t> next{0};
  std::mutex guard;
  std::exception_ptr wrong;
  std::int64_t where = parts;
  parallel_for(workers, threads, [&](std::size_t w) {
    for (std::int64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < parts;) {
      try {
        compute(**leases[w], part);
      } catch (...) {
        const std::lock_guard<std::mutex> hold(guard);
        if (part < where) wrong = std::current_exception();
        where = std::min(where, part);
      }
    }
  });
  if (wrong != nullptr) std::rethrow_exception(wrong);
}

}  // namespace rarefy::program
