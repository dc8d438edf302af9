#include "bind/packed.h"

#include <atomic>
#include <limits>
#include <stdexcept>

#include "ops/spmm.h"
#include "ops/spmv.h"

namespace rarefy {
namespace {

std::atomic<long> live_objects{0};

template <class Kernel>
void require(const Kernel& kernel) {
  const Isa allowed = allowed_isa();
  if (kernel.isa > allowed)
    throw std::invalid_argument(std::string("pack: kernel ") + kernel.name + " needs " + isa_name(kernel.isa) +
                                ", but this process may use " + isa_name(allowed) +
                                " at most (the CPU, or RAREFY_ISA); leave the kernel out to have one chosen");
}

std::variant<spmm::Tiled, spmv::Packed> lay_out(const float* weight, int out, int in, const std::string& name) {
  for (const spmm::Kernel* kernel : spmm::kernels())
    if (name == kernel->name) {
      require(*kernel);
      return spmm::pack(weight, out, in, *kernel);
    }
  for (const spmv::Kernel* kernel : spmv::kernels())
    if (name == kernel->name) {
      require(*kernel);
      return spmv::pack(weight, out, in, *kernel);
    }
  throw std::invalid_argument("pack: no kernel is called '" + name + "'; rarefy.ops.native.kernels() lists them");
}

// Overloads that std::visit can choose between.
void run(const spmm::Tiled& w, const float* x, std::int64_t tokens, const float* bias, Activation a, float* y, int threads) {
  spmm::multiply(w, x, tokens, bias, a, y, threads);
}
void run(const spmv::Packed& w, const float* x, std::int64_t tokens, const float* bias, Activation a, float* y, int threads) {
  spmv::multiply(w, x, tokens, bias, a, y, threads);
}
void write(const spmm::Tiled& w, float* to) { spmm::unpack(w, to); }
void write(const spmv::Packed& w, float* to) { spmv::unpack(w, to); }

int checked(std::int64_t size) {
  if (size < 0 || size > std::numeric_limits<std::int32_t>::max() / 64)
    throw std::invalid_argument("pack: a dimension of " + std::to_string(size) + " is out of range");
  return static_cast<int>(size);
}

}  // namespace

Packed::Packed(std::uintptr_t weight, std::int64_t out, std::int64_t in, const std::string& kernel)
    : layout_(lay_out(at<float>(weight), checked(out), checked(in), kernel)) {
  ++live_objects;
}

Packed::~Packed() { --live_objects; }

void Packed::multiply(std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, int activation, std::uintptr_t y,
                      int threads) const {
  std::visit(
      [&](const auto& layout) {
        run(layout, at<float>(x), tokens, at<float>(bias), static_cast<Activation>(activation), at<float>(y),
                        threads);
      },
      layout_);
}

void Packed::unpack(std::uintptr_t weight) const {
  std::visit([&](const auto& layout) { write(layout, at<float>(weight)); }, layout_);
}

std::size_t Packed::nnz() const {
  if (const auto* tiled = std::get_if<spmm::Tiled>(&layout_)) return tiled->nnz;
  return std::get<spmv::Packed>(layout_).nnz();
}

std::size_t Packed::bytes() const {
  return std::visit([](const auto& layout) { return layout.bytes(); }, layout_);
}

long Packed::live() { return live_objects; }

std::vector<Listed> listing() {
  std::vector<Listed> out;
  for (const spmm::Kernel* k : spmm::kernels())
    out.emplace_back(k->name, "spmm", isa_name(k->isa), k->rows, k->tokens, k->depth);
  for (const spmv::Kernel* k : spmv::kernels())
    out.emplace_back(k->name, "spmv", isa_name(k->isa), 1, spmv::most_tokens, 0);
  return out;
}

}  // namespace rarefy
