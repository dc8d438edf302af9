#include "pack/tiled.h"

#include <algorithm>
#include <numeric>

#include "pack/keep.h"
#include "pack/quads.h"

namespace rarefy::spmm {
namespace {

Row row_entries(const float* weights, int features) {
  Row row;
  for (int k = 0; k < features; ++k)
    if (kept(weights[k])) row.push_back({static_cast<std::uint16_t>(k * offset_unit), weights[k]});
  return row;
}

// Rows of like length share a group, so that little filling is needed and the trip count of the loop changes seldom.
std::vector<int> longest_first(const std::vector<Row>& rows) {
  std::vector<int> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rows[a].size() > rows[b].size(); });
  return order;
}

// steps: the entries of the longest member.
void append_group(Tiled& packed, const std::vector<Row>& rows, const int* members, std::size_t steps) {
  const int together = packed.kernel->rows;
  const Entry filling{static_cast<std::uint16_t>(packed.kernel->depth * offset_unit), 0.0f};
  packed.groups.push_back(static_cast<std::uint16_t>(steps));
  for (int r = 0; r < together; ++r) packed.groups.push_back(static_cast<std::uint16_t>(members[r]));
  for (std::size_t step = 0; step < steps; ++step)
    for (int r = 0; r < together; ++r) {
      const Row& row = rows[members[r]];
      const Entry entry = step < row.size() ? row[step] : filling;
      packed.offsets.push_back(entry.offset);
      packed.values.push_back(entry.value);
    }
}

void append_quad(Tiled& packed, const std::vector<Row>& rows, const int* members, Quads& quads) {
  quads.arrange({&rows[members[0]], &rows[members[1]], &rows[members[2]], &rows[members[3]]});
  for (const std::uint16_t count : quads.counts()) packed.groups.push_back(count);
  for (int r = 0; r < quad; ++r) packed.groups.push_back(static_cast<std::uint16_t>(members[r]));
  for (const Entry& entry : quads.entries()) {
    packed.offsets.push_back(entry.offset);
    packed.values.push_back(entry.value);
  }
}

std::size_t longest(const std::vector<Row>& rows, const int* members, int together) {
  std::size_t most = 0;
  for (int r = 0; r < together; ++r) most = std::max(most, rows[members[r]].size());
  return most;
}

void append_tile(Tiled& packed, const float* weight, int band, int tile, Quads& quads) {
  const int first = tile * packed.kernel->depth, features = std::min(packed.kernel->depth, packed.in - first);
  const int used = packed.rows_of(band), together = packed.kernel->rows;
  std::vector<Row> rows((used + 47) / 48 * 48);  // rows beyond the matrix are empty; 48 is a multiple of every group size
  for (int r = 0; r < used; ++r) {
    rows[r] = row_entries(weight + (static_cast<std::size_t>(band) * band_rows + r) * packed.in + first, features);
    packed.nnz += rows[r].size();
  }
  const std::vector<int> order = longest_first(rows);
  Tiled::Start start{packed.values.size(), packed.groups.size(), 0};
  for (std::size_t at = 0; at < order.size(); at += together) {
    const int* members = order.data() + at;
    const std::size_t steps = longest(rows, members, together);
    if (tile > 0 && steps == 0) continue;  // nothing to add; the first tile also writes the zeros
    if (packed.kernel->pairs) append_quad(packed, rows, members, quads);
    else append_group(packed, rows, members, steps);
    ++start.count;
  }
  packed.starts.push_back(start);
}

}  // namespace

Tiled pack(const float* weight, int out, int in, const Kernel& kernel) {
  Tiled packed;
  packed.out = out;
  packed.in = in;
  packed.kernel = &kernel;
  Quads quads(kernel.depth);
  for (int band = 0; band < packed.bands(); ++band)
    for (int tile = 0; tile < packed.tiles(); ++tile) append_tile(packed, weight, band, tile, quads);
  packed.values.shrink_to_fit();
  packed.offsets.shrink_to_fit();
  packed.groups.shrink_to_fit();
  return packed;
}

void unpack(const Tiled& packed, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(packed.out) * packed.in, 0.0f);
  const int together = packed.kernel->rows, depth = packed.kernel->depth, counts = packed.kernel->counts();
  for (int band = 0; band < packed.bands(); ++band)
    for (int tile = 0; tile < packed.tiles(); ++tile) {
      const Segment segment = packed.segment(band, tile);
      std::size_t at = 0;
      for (std::size_t g = 0; g < segment.count; ++g) {
        const std::uint16_t* group = segment.groups + g * (counts + together);
        for (int step = 0; step < group[0]; ++step)
          for (int r = 0; r < together; ++r, ++at)
            if (segment.values[at] != 0.0f)
              weight[(static_cast<std::size_t>(band) * band_rows + group[counts + r]) * packed.in + tile * depth +
                     segment.offsets[at] / offset_unit] = segment.values[at];
      }
    }
}

Segment Tiled::segment(int band, int tile) const {
  const Start& start = starts[static_cast<std::size_t>(band) * tiles() + tile];
  return {groups.data() + start.group, start.count, offsets.data() + start.entry, values.data() + start.entry};
}

std::size_t Tiled::entries_of(int band) const {
  const std::size_t next = static_cast<std::size_t>(band + 1) * tiles();
  const std::size_t end = next < starts.size() ? starts[next].entry : values.size();
  return end - starts[next - tiles()].entry;
}

std::size_t Tiled::bytes() const {
  return values.size() * sizeof(float) + (offsets.size() + groups.size()) * sizeof(std::uint16_t) +
         starts.size() * sizeof(Start);
}

}  // namespace rarefy::spmm
