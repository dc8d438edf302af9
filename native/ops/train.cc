#include "ops/train.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "ops/csr.h"
#include "ops/parallel.h"
#include "ops/split.h"
#include "ops/train_panel.h"

namespace rarefy::train {
namespace {

const Geometry& checked(const Geometry& g, const std::int64_t* offsets, const std::int32_t* columns,
                        std::int64_t entries) {
  csr::check({g.outputs, g.in.channels / g.groups * g.taps(), offsets, columns, nullptr}, entries);
  return g;
}

// A multiple of the rows that share lists, so that a block ends with a group.
constexpr int most_shared = 4;

std::vector<int> split_at_groups(const Part& part, int parts) {
  const int rows = static_cast<int>(part.begin.size()) - 1;
  std::vector<int> bounds = split_rows(part.begin.data(), rows, parts);
  for (std::size_t i = 1; i + 1 < bounds.size(); ++i)
    bounds[i] = std::min(rows, (bounds[i] + most_shared - 1) / most_shared * most_shared);
  return bounds;
}

Places places_of(const Side& side, const Part& part, const Tile& tile) {
  const int lines = std::max(0, std::min(tile.to, part.count[0]) - tile.from), units = tile.images / unit;
  const bool run = side.in_stride[1] == 1 && side.out_stride[1] == 1;  // all units of a line are beside each other
  const std::ptrdiff_t in_line = static_cast<std::ptrdiff_t>(side.in.channels) * side.panel_width * tile.images;
  const std::ptrdiff_t out_line = static_cast<std::ptrdiff_t>(side.out.width) * tile.images;
  return {lines, run ? part.count[1] * units : part.count[1], in_line * side.in_stride[0],
          static_cast<std::ptrdiff_t>(unit) * side.in_stride[1], tile.out_lines(side) * out_line,
          out_line * side.out_stride[0], static_cast<std::ptrdiff_t>(unit) * side.out_stride[1]};
}

struct Product {
  const Side& side;
  const float *values, *x, *bias;
  float* y;
  std::int64_t images;
};

void multiply_rows(const Kernel& kernel, const Product& p, const Tile& tile, int first, int last, const float* panel,
                   float* out) {
  const Side& side = p.side;
  for (const Part& part : side.parts) {
    const Places places = places_of(side, part, tile);
    const Entries entries{part.begin.data(), side.at.data(), p.values, part.shared, tile.shift()};
    const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(part.first[0]) * side.out.width + part.first[1];
    float* const to = out + place * tile.images;
    kernel.multiply(entries, first, last, places, panel, p.bias, to);
  }
}

void multiply_tile(const Kernel& kernel, const Product& p, const Tile& tile, int first, int last) {
  static thread_local Scratch scratch;
  const Side& side = p.side;
  const int lines = tile.out_lines(side);
  const std::ptrdiff_t per_row = static_cast<std::ptrdiff_t>(lines) * side.out.width;  // places
  const int fitting = static_cast<int>(out_floats / (per_row * tile.images + 1));
  const int block = std::max(most_shared, fitting / most_shared * most_shared);
  const std::size_t panel_floats = tile.panel_floats(side);
  float* const panel = scratch.at_least(panel_floats + (block * per_row + 2 * unit) * tile.images);
  load_tile(kernel, side, tile, p.x, panel);
  for (int row = first; row < last; row += block) {
    const int end = std::min(last, row + block);
    multiply_rows(kernel, p, tile, row, end, panel, panel + panel_floats);
    store_tile(kernel, side, tile, row, end, panel + panel_floats, p.y);
  }
}

}  // namespace

void multiply(const Side& side, const float* values, const float* x, std::int64_t images, const float* bias, float* y,
              int threads) {
  const Product p{side, values, x, bias, y, images};
  const Kernel& kernel = train::kernel(allowed_isa());
  const double work = static_cast<double>(p.side.at.size() + p.side.out.channels) * static_cast<double>(p.images);
  const Tiles tiles(p.side, p.images, panel_budget);
  threads = threads_for(work * std::max(1, p.side.parts[0].count[0] * p.side.parts[0].count[1]), threads);
  const int parts = tiles.count() % threads == 0 || tiles.count() >= 4u * threads ? 1 : threads;
  const std::vector<int> bounds = split_at_groups(p.side.parts[0], parts);
  parallel_for(tiles.count() * parts, threads, [&](std::size_t task) {
    const int part = static_cast<int>(task % parts);
    multiply_tile(kernel, p, tiles.at(task / parts), bounds[part], bounds[part + 1]);
  });
}

namespace {

// f(e) for all e < n, a chunk a task.
template <class Function>
void chunks(std::size_t n, int threads, Function f) {
  constexpr std::size_t chunk = 1 << 14;
  parallel_for((n + chunk - 1) / chunk, threads_for(static_cast<double>(n) * 16, threads), [&](std::size_t task) {
    const std::size_t end = std::min(n, (task + 1) * chunk);
    for (std::size_t e = task * chunk; e < end; ++e) f(e);
  });
}

struct Sample {
  const Side& side;
  const float *x, *dy;
};

void sample_tile(const Kernel& kernel, const Sample& s, const Tile& tile, int first, int last, float* sums) {
  static thread_local Scratch scratch;
  const Side& side = s.side;
  const Part& part = side.parts[0];
  const Places places = places_of(side, part, tile);
  const std::ptrdiff_t per_row = places.out_row;  // floats
  const int block = std::max<int>(1, static_cast<int>(out_floats / (per_row + 1)));
  const std::size_t panel_floats = tile.panel_floats(side);
  float* const panel = scratch.at_least(panel_floats + block * per_row + unit * tile.images);
  load_tile(kernel, side, tile, s.x, panel);
  const Entries entries{part.begin.data(), side.at.data(), nullptr, 1, tile.shift()};
  for (int row = first; row < last; row += block) {
    const int end = std::min(last, row + block);
    load_output(kernel, side, tile, row, end, s.dy, panel + panel_floats);
    kernel.sample(entries, row, end, places, panel, panel + panel_floats, sums);
  }
}

}  // namespace

// Threads share the tiles, each group with sums of its own (at most four, for their memory), or else the rows.
void sample(const Side& side, const float* dy, const float* x, std::int64_t images, float* dvalues, int threads) {
  const Sample s{side, x, dy};
  const Kernel& kernel = train::kernel(allowed_isa());
  const Part& part = s.side.parts[0];
  const std::size_t n = s.side.at.size();
  const Tiles tiles(s.side, images, sample_budget);
  const double places = static_cast<double>(part.count[0]) * part.count[1];
  threads = threads_for(static_cast<double>(n + part.begin.size()) * static_cast<double>(images) * places, threads);
  const int groups = std::max<int>(1, std::min<int>({threads, 4, static_cast<int>(tiles.count())}));
  const int parts = std::max(1, threads / groups);
  const std::vector<int> bounds = split_at_groups(part, parts);
  static thread_local Scratch own;  // kept: fresh pages cost more than the sums
  float* const sums = own.at_least(n * (groups - 1));
  parallel_for(static_cast<std::size_t>(groups) * parts, threads, [&](std::size_t task) {
    const std::size_t group = task / parts, first = tiles.count() * group / groups;
    const std::size_t last = tiles.count() * (group + 1) / groups;
    const int rows = static_cast<int>(task % parts);
    float* const to = group == 0 ? dvalues : sums + n * (group - 1);
    std::fill(to + part.begin[bounds[rows]], to + part.begin[bounds[rows + 1]], 0.0f);
    for (std::size_t tile = first; tile < last; ++tile)
      sample_tile(kernel, s, tiles.at(tile), bounds[rows], bounds[rows + 1], to);
  });
  for (int group = 1; group < groups; ++group)
    chunks(n, threads, [&](std::size_t e) { dvalues[e] += sums[n * (group - 1) + e]; });
}

void multiply_ordered(const Side& side, const float* values, const float* x, std::int64_t images, float* y, int threads) {
  const std::vector<std::int32_t>& order = side.order;
  static thread_local Scratch own;  // kept: fresh pages cost more than the sums
  float* const turned = own.at_least(order.size());
  chunks(order.size(), threads, [&](std::size_t e) { turned[e] = values[order[e]]; });
  multiply(side, turned, x, images, nullptr, y, threads);
}

Index::Index(const Geometry& geometry, const std::int64_t* offsets, const std::int32_t* columns, std::int64_t entries)
    : forward_(forward_side(checked(geometry, offsets, columns, entries), offsets, columns)),
      backward_(backward_side(geometry, offsets, columns)) {}

std::size_t Index::bytes() const {
  std::size_t sum = 0;
  for (const Side* side : {&forward_, &backward_}) {
    sum += (side->at.size() + side->order.size()) * sizeof(std::int32_t);
    for (const Part& part : side->parts) sum += part.begin.size() * sizeof(std::int64_t);
  }
  return sum;
}

void Index::forward(const float* values, const float* x, std::int64_t images, const float* bias, float* y,
                    int threads) const {
  multiply(forward_, values, x, images, bias, y, threads);
}

void Index::input_grad(const float* values, const float* dy, std::int64_t images, float* dx, int threads) const {
  multiply_ordered(backward_, values, dy, images, dx, threads);
}

void Index::weight_grad(const float* dy, const float* x, std::int64_t images, float* dvalues, int threads) const {
  sample(forward_, dy, x, images, dvalues, threads);
}

}  // namespace rarefy::train
