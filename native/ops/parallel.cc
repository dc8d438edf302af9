#include "ops/parallel.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "core/denormals.h"

namespace rarefy {
namespace {

struct Job {
  std::size_t count;
  void (*task)(void*, std::size_t) noexcept;
  void* context;
  std::atomic<std::size_t> next{0};
};

void work(void* argument) noexcept {
  Job& job = *static_cast<Job*>(argument);
  const FlushDenormals flush;
  for (std::size_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.task(job.context, i);
}

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

Parallel openmp() {
  static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

// Used where no OpenMP runtime is loaded. Threads sleep between jobs; they are never joined, because at exit nothing
// may wait for them.
class Pool {
 public:
  void run(Job& job, int helpers) {
    const std::lock_guard<std::mutex> one_job(turn_);
    {
      const std::lock_guard<std::mutex> hold(state_);
      while (static_cast<int>(started_) < helpers) start();
      job_ = &job;
      wanted_ = running_ = helpers;
    }
    wake_.notify_all();
    work(&job);
    std::unique_lock<std::mutex> hold(state_);
    done_.wait(hold, [&] { return running_ == 0; });
  }

 private:
  void start() {
    ++started_;
    std::thread([this] { serve(); }).detach();
  }

  void serve() {
    for (std::unique_lock<std::mutex> hold(state_);;) {
      wake_.wait(hold, [&] { return wanted_ > 0; });
      --wanted_;
      Job* const job = job_;
      hold.unlock();
      work(job);
      hold.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, state_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int started_ = 0, wanted_ = 0, running_ = 0;
};

Pool& pool() {  // a forked child has none of its parent's threads: it gets a pool of its own, and the old one is left
  static std::mutex guard;
  static Pool* current = nullptr;
  static pid_t owner = 0;
  const std::lock_guard<std::mutex> hold(guard);
  if (current == nullptr || owner != getpid()) {
    current = new Pool;
    owner = getpid();
  }
  return *current;
}

}  // namespace

void parallel(std::size_t count, int threads, void (*task)(void*, std::size_t) noexcept, void* context) {
  Job job{count, task, context};
  if (static_cast<std::size_t>(threads) > count) threads = static_cast<int>(count);
  if (threads <= 1) return work(&job);
  if (openmp() != nullptr) return openmp()(work, &job, static_cast<unsigned>(threads), 0);
  pool().run(job, threads - 1);
}

const char* thread_pool_name() { return openmp() != nullptr ? "openmp" : "own"; }

}  // namespace rarefy
