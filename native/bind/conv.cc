#include "bind/conv.h"

#include <limits>
#include <stdexcept>

#include "bind/packed.h"
#include "ops/conv.h"
#include "ops/conv_across.h"
#include "ops/conv_pool.h"
#include "ops/conv_pooled.h"
#include "ops/conv_tiles.h"

namespace rarefy {
conv::Problem conv_problem(std::uintptr_t x, const std::tuple<int, int, int>& image,
                           const std::tuple<int, int, int, int>& place, std::uintptr_t bias, std::uintptr_t residual,
                           int activation, std::uintptr_t y) {
  const auto [batch, height, width] = image;
  const auto [top, left, out_height, out_width] = place;
  return {at<float>(x), batch, height, width, top, left, out_height, out_width, at<float>(bias), at<float>(residual),
          static_cast<conv::Activation>(activation), at<float>(y)};
}

conv::Across across_problem(std::uintptr_t x, const std::tuple<int, int, int>& image,
                            const std::tuple<int, int, int, int>& place, std::uintptr_t bias, std::uintptr_t residual,
                            int activation, std::uintptr_t y) {
  const auto [blocks, height, width] = image;
  const auto [top, left, out_height, out_width] = place;
  return {at<float>(x), blocks, height, width, top, left, out_height, out_width, at<float>(bias), at<float>(residual),
          static_cast<conv::Activation>(activation), at<float>(y)};
}

void require_isa(const char* where, const std::string& kernel, Isa needed) {
  const Isa allowed = allowed_isa();
  if (needed > allowed)
    throw std::invalid_argument(std::string(where) + ": kernel " + kernel + " needs " + isa_name(needed) +
                                ", but this process may use " + isa_name(allowed) +
                                " at most (the CPU, or RAREFY_ISA); leave the kernel out to have one chosen");
}

conv::Window window_of(const PackedConv::Sizes& sizes, const PackedConv::Steps& steps) {
  const auto [out, in, groups, height, width] = sizes;
  const auto [stride_y, stride_x, dilation_y, dilation_x] = steps;
  if (out < 0 || in < 0 || groups < 1 || out % groups != 0 || height < 1 || width < 1 || stride_y < 1 || stride_x < 1 ||
      dilation_y < 1 || dilation_x < 1)
    throw std::invalid_argument("pack_conv: sizes and steps must be positive, output channels a multiple of groups");
  return {height, width, stride_y, stride_x, dilation_y, dilation_x};
}

namespace {

const conv::Kernel& kernel_named(const std::string& name) {
  for (const conv::Kernel* kernel : conv::kernels())
    if (name == kernel->tile.name) {
      require_isa("pack_conv", name, kernel->tile.isa);
      return *kernel;
    }
  throw std::invalid_argument("pack_conv: no kernel is called '" + name + "'; rarefy.ops.conv.kernels() lists them");
}

conv::Packed lay_out(const std::uint32_t* weight, const PackedConv::Sizes& sizes, const PackedConv::Steps& steps,
                     const std::string& name) {
  const conv::Window window = window_of(sizes, steps);
  const auto [out, in, groups, height, width] = sizes;
  return conv::pack(weight, conv::Words::floats, out, in, groups, window, kernel_named(name).tile, conv::panel_bytes());
}

conv::Packed see(const Mapping& file, std::size_t at, std::size_t bytes, const PackedConv::Sizes& sizes,
                 const PackedConv::Steps& steps, const std::string& name) {
  conv::Packed packed;
  packed.kernel = &kernel_named(name).tile;
  BlobReader blob(file.part(at, bytes), bytes, name);
  blob(packed);
  blob.finish();
  const auto [out, in, groups, height, width] = sizes;
  if (std::tie(packed.out, packed.in, packed.groups) != std::tie(out, in, groups) || packed.window != window_of(sizes, steps))
    throw std::invalid_argument("packed bytes: a convolution of another size or window than what was asked for");
  return packed;
}

conv_pool::Problem pool_problem(const PoolWindow& window, const std::tuple<int, int, int, int>& sizes) {
  const auto [height, width, out_height, out_width] = sizes;
  const auto [kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x] = window;
  return {nullptr,
          nullptr,
          height,
          width,
          out_height,
          out_width,
          {kernel_y, kernel_x},
          {stride_y, stride_x},
          {padding_y, padding_x},
          {dilation_y, dilation_x},
          std::ptrdiff_t{height} * width,
          std::ptrdiff_t{out_height} * out_width};
}

}  // namespace

PackedConv::PackedConv(std::uintptr_t weight, const Sizes& sizes, const Steps& steps, const std::string& kernel)
    : packed_(lay_out(at<std::uint32_t>(weight), sizes, steps, kernel)) {
  Packed::count_live(1);
}

PackedConv::PackedConv(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const Sizes& sizes,
                       const Steps& steps, const std::string& kernel)
    : file_(std::move(file)), packed_(see(*file_, at, bytes, sizes, steps, kernel)) {
  Packed::count_live(1);
}

std::size_t PackedConv::save(std::uintptr_t to) const {
  BlobWriter writer(at<std::uint8_t>(to));
  writer(packed_);
  return writer.finish(packed_.kernel->name);
}

PackedConv::~PackedConv() { Packed::count_live(-1); }

void PackedConv::convolve(std::uintptr_t x, const std::tuple<int, int, int>& image,
                          const std::tuple<int, int, int, int>& place, std::uintptr_t bias, std::uintptr_t residual,
                          int activation, std::uintptr_t y, int threads) const {
  conv::convolve(packed_, conv_problem(x, image, place, bias, residual, activation, y), threads);
}

void PackedConv::convolve_pooled(std::uintptr_t x, const std::tuple<int, int, int>& image,
                                 const std::tuple<int, int, int, int>& place, std::uintptr_t bias, int activation,
                                 const PoolWindow& window, const std::tuple<int, int>& pooled, std::uintptr_t y,
                                 int threads) const {
  const auto [top, left, out_height, out_width] = place;
  const conv::Problem problem = conv_problem(x, image, place, bias, 0, activation, y);
  conv::convolve_pooled(packed_, problem, pool_problem(window, {out_height, out_width, std::get<0>(pooled), std::get<1>(pooled)}),
                        threads);
}

void PackedConv::convolve_across(std::uintptr_t x, const std::tuple<int, int, int>& image,
                                 const std::tuple<int, int, int, int>& place, std::uintptr_t bias,
                                 std::uintptr_t residual, int activation, std::uintptr_t y, int threads) const {
  conv::convolve_across(packed_, across_problem(x, image, place, bias, residual, activation, y), threads);
}

namespace {

const conv::Kernel& widest() {
  const conv::Kernel* best = nullptr;
  for (const conv::Kernel* kernel : conv::kernels())
    if (kernel->tile.isa <= allowed_isa() && (best == nullptr || kernel->tile.width > best->tile.width)) best = kernel;
  return *best;
}

}  // namespace

int lanes_across() { return widest().tile.width; }

void turn_across(std::uintptr_t from, std::int64_t count, std::int64_t size, std::uintptr_t to, bool back, int threads) {
  if (count <= 0 || size <= 0) return;
  if (back) conv::from_across(widest(), at<float>(from), count, size, at<float>(to), threads);
  else conv::to_across(widest(), at<float>(from), count, size, at<float>(to), threads);
}

std::vector<ListedConv> conv_listing() {
  std::vector<ListedConv> out;
  for (const conv::Kernel* k : conv::kernels()) out.emplace_back(k->tile.name, isa_name(k->tile.isa), k->tile.rows, k->tile.pixels, k->tile.together);
  return out;
}

void max_pool(std::uintptr_t x, std::int64_t planes, const std::tuple<int, int, int, int>& sizes, const PoolWindow& window,
              std::uintptr_t y, int threads) {
  conv_pool::Problem problem = pool_problem(window, sizes);
  problem.x = at<float>(x);
  problem.y = at<float>(y);
  conv_pool::max_pool(problem, planes, threads);
}

}  // namespace rarefy
