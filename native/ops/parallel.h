// Spreads numbered tasks over threads.
#pragma once

#include <cstddef>
#include <type_traits>

namespace rarefy {

// Calls task(context, i) once for every i in [0, count), on at most `threads` threads, the caller's among them; tasks
// are taken from a shared counter, so a thread that is held up takes fewer. Denormals are flushed while a task runs.
// Uses the process's GNU OpenMP pool when there is one (torch's: one pool, no two sets of spinning threads), else its own.
void parallel(std::size_t count, int threads, void (*task)(void*, std::size_t) noexcept, void* context);

template <class Function>
void parallel_for(std::size_t count, int threads, Function&& f) {
  using Plain = std::remove_reference_t<Function>;
  parallel(count, threads, [](void* context, std::size_t i) noexcept { (*static_cast<Plain*>(context))(i); }, &f);
}

// "openmp" or "own": which threads do the work.
const char* thread_pool_name();

}  // namespace rarefy
