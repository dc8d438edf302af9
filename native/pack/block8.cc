#include "pack/block8.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>

namespace rarefy::block8 {
namespace {

using Four = std::array<std::int8_t, 4>;

struct Cell {
  std::uint16_t offset;
  Four weights;
};
using Row = std::vector<Cell>;

// One tile of codes: `features` inputs of each row from `codes`, rows `stride` apart, none beyond `used` rows.
struct Tile {
  const std::int8_t* codes;
  std::ptrdiff_t stride;
  int used, features;

  std::int8_t at(int row, int k) const { return row < used && k < features ? codes[row * stride + k] : std::int8_t{0}; }
};

bool saturates(const Four& w) {
  return std::abs(w[0]) + std::abs(w[1]) > 128 || std::abs(w[2]) + std::abs(w[3]) > 128;
}

Row row_cells(const Tile& tile, int row, bool exact_pairs) {
  Row out;
  for (int k = 0; k < tile.features; k += 4) {
    const Four w{tile.at(row, k), tile.at(row, k + 1), tile.at(row, k + 2), tile.at(row, k + 3)};
    const auto offset = static_cast<std::uint16_t>(k / 4 * offset_unit);
    if (w == Four{}) continue;
    if (exact_pairs || !saturates(w)) {
      out.push_back({offset, w});
    } else {
      out.push_back({offset, {w[0], 0, w[2], 0}});
      out.push_back({offset, {0, w[1], 0, w[3]}});
    }
  }
  return out;
}

// Rows of like length share a group, so that little filling is needed and the trip count of the loop changes seldom.
template <class T>
std::vector<int> longest_first(const std::vector<std::vector<T>>& rows) {
  std::vector<int> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rows[a].size() > rows[b].size(); });
  return order;
}

void append_cell(Packed& packed, const Cell& cell) {
  packed.offsets.push_back(cell.offset);
  packed.values.append(cell.weights.begin(), cell.weights.end());
}

std::size_t append_cells(Packed& packed, const Tile& tile, bool write_empty) {
  const int together = packed.kernel->rows;
  std::vector<Row> rows(band_rows);  // rows beyond the matrix are empty
  for (int r = 0; r < tile.used; ++r) rows[r] = row_cells(tile, r, packed.kernel->exact_pairs);
  const std::vector<int> order = longest_first(rows);
  std::size_t groups = 0;
  for (std::size_t at = 0; at < order.size(); at += together, ++groups) {
    const std::size_t steps = rows[order[at]].size();
    if (steps == 0 && !write_empty) break;
    packed.groups.push_back(static_cast<std::uint16_t>(steps));
    for (int r = 0; r < together; ++r) packed.groups.push_back(static_cast<std::uint16_t>(order[at + r]));
    for (std::size_t step = 0; step < steps; ++step)
      for (int r = 0; r < together; ++r) {
        const Row& row = rows[order[at + r]];
        append_cell(packed, step < row.size() ? row[step] : Cell{0, {}});
      }
  }
  return groups;
}

// The inputs that any of these rows uses.
std::vector<int> columns_used(const Tile& tile, const std::vector<int>& rows) {
  std::vector<int> columns;
  for (int k = 0; k < tile.features; ++k)
    if (std::any_of(rows.begin(), rows.end(), [&](int r) { return tile.at(r, k) != 0; })) columns.push_back(k);
  return columns;
}

// Inputs that both rows use.
int shared(const Tile& tile, int a, int b) {
  int count = 0;
  for (int k = 0; k < tile.features; ++k) count += tile.at(a, k) != 0 && tile.at(b, k) != 0;
  return count;
}

// Rows that make a strip: the first left, then those that share most inputs with it. Neighbours where masks are blocks.
std::vector<std::vector<int>> strips_of(const Tile& tile, int together) {
  std::vector<int> left(std::max((tile.used + together - 1) / together * together, together));
  std::iota(left.begin(), left.end(), 0);
  std::vector<std::vector<int>> strips;
  while (!left.empty()) {
    std::vector<int> common;
    for (const int row : left) common.push_back(row == left[0] ? INT32_MAX : shared(tile, left[0], row));
    std::vector<int> order(left.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return common[a] > common[b]; });
    std::vector<int> strip;
    for (int i = 0; i < together; ++i) strip.push_back(left[order[i]]);
    for (const int row : strip) left.erase(std::find(left.begin(), left.end(), row));
    strips.push_back(std::move(strip));
  }
  return strips;
}

// One step of a strip: four inputs, and for every row the weights of those that `takes` names.
int append_step(Packed& packed, const Tile& tile, const std::vector<int>& rows, const std::array<int, 4>& columns, const std::array<bool, 4>& takes) {
  for (const int k : columns) packed.offsets.push_back(static_cast<std::uint16_t>(std::max(k, 0) * offset_unit));
  for (const int row : rows)
    for (int i = 0; i < 4; ++i)
      packed.values.push_back(takes[i] && columns[i] >= 0 ? tile.at(row, columns[i]) : std::int8_t{0});
  return 1;
}

int append_four(Packed& packed, const Tile& tile, const std::vector<int>& rows, const std::array<int, 4>& columns) {
  bool split = false;
  for (const int row : rows) {
    if (packed.kernel->exact_pairs) break;
    Four w{};
    for (int i = 0; i < 4; ++i) w[i] = columns[i] < 0 ? std::int8_t{0} : tile.at(row, columns[i]);
    split = split || saturates(w);
  }
  if (!split) return append_step(packed, tile, rows, columns, {true, true, true, true});
  return append_step(packed, tile, rows, columns, {true, false, true, false}) +
         append_step(packed, tile, rows, columns, {false, true, false, true});
}

std::size_t append_strips(Packed& packed, const Tile& tile, bool write_empty) {
  const std::vector<std::vector<int>> strips = strips_of(tile, packed.kernel->rows);
  std::vector<std::vector<int>> used;
  for (const std::vector<int>& rows : strips) used.push_back(columns_used(tile, rows));
  std::size_t groups = 0;
  for (const int strip : longest_first(used)) {
    const std::vector<int>& columns = used[strip];
    if (columns.empty() && !write_empty) break;
    const std::size_t count_at = packed.groups.size();
    packed.groups.push_back(0);
    for (const int row : strips[strip]) packed.groups.push_back(static_cast<std::uint16_t>(row));
    int steps = 0;
    for (std::size_t at = 0; at < columns.size(); at += 4) {
      std::array<int, 4> four{-1, -1, -1, -1};
      std::copy(columns.begin() + at, columns.begin() + std::min(at + 4, columns.size()), four.begin());
      steps += append_four(packed, tile, strips[strip], four);
    }
    packed.groups[count_at] = static_cast<std::uint16_t>(steps);
    ++groups;
  }
  return groups;
}

std::int32_t row_sum(const std::int8_t* codes, int in, int row) {
  std::int64_t sum = 0, size = 0;
  for (int k = 0; k < in; ++k) {
    sum += codes[k];
    size += std::abs(codes[k]);
  }
  if (255 * size > INT32_MAX || std::abs(sum) >= (1 << 22))
    throw std::invalid_argument("pack: row " + std::to_string(row) + " has weights that add up to " + std::to_string(size) +
                                ": its sums of products may pass 32 bits; split the layer's inputs, or store it as fp32");
  return static_cast<std::int32_t>(sum);
}

// 128 high + low, as two 16-bit halves.
std::int32_t in_halves(std::int32_t sum) {
  const std::int32_t high = sum >> 7, low = sum & 127;
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(high) << 16 | static_cast<std::uint32_t>(low));
}

}  // namespace

Packed pack(const std::int8_t* codes, const float* scales, int out, int in, const Kernel& kernel) {
  Packed packed;
  packed.out = out;
  packed.in = in;
  packed.kernel = &kernel;
  packed.scale.append(scales, scales + static_cast<std::size_t>(out));
  packed.scale.resize(out + 16);
  for (int row = 0; row < out; ++row) packed.sums.push_back(in_halves(row_sum(codes + static_cast<std::ptrdiff_t>(row) * in, in, row)));
  packed.sums.resize(out + 16);
  packed.nnz = static_cast<std::size_t>(out) * in - std::count(codes, codes + static_cast<std::ptrdiff_t>(out) * in, std::int8_t{0});
  for (int band = 0; band < packed.bands(); ++band)
    for (int tile = 0; tile < packed.tiles(); ++tile) {
      const int first = tile * kernel.depth;
      const Tile part{codes + static_cast<std::ptrdiff_t>(band) * band_rows * in + first, in, packed.rows_of(band),
                      std::min(kernel.depth, in - first)};
      packed.starts.push_back({packed.values.size(), packed.offsets.size(), packed.groups.size(), 0});
      const std::size_t groups = kernel.shape == Shape::cell ? append_cells(packed, part, tile == 0) : append_strips(packed, part, tile == 0);
      packed.starts.back().count = groups;  // the first tile's groups write every row, also where they add nothing
    }
  packed.values.shrink_to_fit();
  packed.offsets.shrink_to_fit();
  packed.groups.shrink_to_fit();
  return packed;
}

void unpack(const Packed& packed, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(packed.out) * packed.in, 0.0f);
  const int together = packed.kernel->rows;
  const bool cells = packed.kernel->shape == Shape::cell;
  for (int band = 0; band < packed.bands(); ++band)
    for (int tile = 0; tile < packed.tiles(); ++tile) {
      Segment at = packed.segment(band, tile);
      for (; at.count > 0; --at.count, at.groups += 1 + together)
        for (int step = at.groups[0]; step > 0; --step, at.offsets += cells ? together : 4)
          for (int r = 0; r < together; ++r, at.values += 4)
            for (int i = 0; i < 4; ++i) {
              if (at.values[i] == 0) continue;
              const int k = tile * packed.kernel->depth + (cells ? at.offsets[r] / offset_unit * 4 + i : at.offsets[i] / offset_unit);
              const std::size_t row = static_cast<std::size_t>(band) * band_rows + at.groups[1 + r];
              weight[row * packed.in + k] = packed.scale[row] * at.values[i];
            }
    }
}

Segment Packed::segment(int band, int tile) const {
  const Start& start = starts[static_cast<std::size_t>(band) * tiles() + tile];
  return {groups.data() + start.group, start.count, offsets.data() + start.offset, values.data() + start.value};
}

std::size_t Packed::values_of(int band) const {
  const std::size_t next = static_cast<std::size_t>(band + 1) * tiles();
  return (next < starts.size() ? starts[next].value : values.size()) - starts[next - tiles()].value;
}

std::size_t Packed::bytes() const {
  return values.size() + (offsets.size() + groups.size()) * sizeof(std::uint16_t) + starts.size() * sizeof(Start) +
         scale.size() * sizeof(float) + sums.size() * sizeof(std::int32_t);
}

}  // namespace rarefy::block8
