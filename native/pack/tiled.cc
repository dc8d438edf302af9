#include "pack/tiled.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <span>

#include "pack/keep.h"

namespace rarefy::spmm {
namespace {

struct Entry {
  std::uint16_t offset;
  float value;
};
using Row = std::vector<Entry>;

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

// Rows' features as bits, to count what two rows share.
class Shared {
 public:
  Shared(std::span<const Row> rows, int depth) : words_((depth + 63) / 64), bits_(rows.size() * words_) {
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (const Entry& entry : rows[r]) {
        const int feature = entry.offset / offset_unit;
        bits_[r * words_ + feature / 64] |= std::uint64_t{1} << (feature % 64);
      }
  }
  int count(int a, int b) const {
    int sum = 0;
    for (std::size_t w = 0; w < words_; ++w) sum += std::popcount(bits_[a * words_ + w] & bits_[b * words_ + w]);
    return sum;
  }
  bool both(int a, int b, std::uint16_t offset) const {
    const int feature = offset / offset_unit;
    return (bits_[a * words_ + feature / 64] & bits_[b * words_ + feature / 64]) >> (feature % 64) & 1;
  }

 private:
  std::size_t words_;
  std::vector<std::uint64_t> bits_;
};

// Pairs are looked for among so many rows of like length: more of them share more, but then groups need more filling.
constexpr int window = 8;

// The order with the rows of each window two by two, those that share most first.
std::vector<int> by_pairs(const std::vector<int>& order, const Shared& shared) {
  struct Pair {
    int count, a, b;
  };
  std::vector<int> out;
  std::vector<Pair> pairs;
  for (std::size_t from = 0; from < order.size(); from += window) {
    pairs.clear();
    for (int a = 0; a < window; ++a)
      for (int b = a + 1; b < window; ++b) pairs.push_back({shared.count(order[from + a], order[from + b]), a, b});
    std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) { return x.count > y.count; });
    std::array<bool, window> taken{};
    for (const Pair& pair : pairs) {
      if (taken[pair.a] || taken[pair.b]) continue;
      taken[pair.a] = taken[pair.b] = true;
      out.insert(out.end(), {order[from + pair.a], order[from + pair.b]});
    }
  }
  return out;
}

// How many steps the pairs of a group share; as many shared features are moved to the front of its rows.
int share(std::vector<Row>& rows, const int* members, int together, const Shared& shared) {
  int steps = shared.count(members[0], members[1]);
  for (int r = 2; r < together; r += 2) steps = std::min(steps, shared.count(members[r], members[r + 1]));
  for (int r = 0; r < together; ++r) {
    Row& row = rows[members[r]];
    const int other = members[r ^ 1];
    int left = steps;
    std::stable_partition(row.begin(), row.end(), [&](const Entry& entry) {
      return left > 0 && shared.both(members[r], other, entry.offset) && left-- > 0;
    });
  }
  return steps;
}

// steps: the entries of the longest member; shared: of them, those that two rows share.
void append_group(Tiled& packed, const std::vector<Row>& rows, const int* members, std::size_t steps, int shared) {
  const int together = packed.kernel->rows;
  const Entry filling{static_cast<std::uint16_t>(packed.kernel->depth * offset_unit), 0.0f};
  packed.groups.push_back(static_cast<std::uint16_t>(steps));
  if (packed.kernel->pairs) packed.groups.push_back(static_cast<std::uint16_t>(shared));
  for (int r = 0; r < together; ++r) packed.groups.push_back(static_cast<std::uint16_t>(members[r]));
  for (std::size_t step = 0; step < steps; ++step)
    for (int r = 0; r < together; ++r) {
      const Row& row = rows[members[r]];
      const Entry entry = step < row.size() ? row[step] : filling;
      packed.offsets.push_back(entry.offset);
      packed.values.push_back(entry.value);
    }
}

std::size_t longest(const std::vector<Row>& rows, const int* members, int together) {
  std::size_t most = 0;
  for (int r = 0; r < together; ++r) most = std::max(most, rows[members[r]].size());
  return most;
}

void append_tile(Tiled& packed, const float* weight, int band, int tile) {
  const int first = tile * packed.kernel->depth, features = std::min(packed.kernel->depth, packed.in - first);
  const int used = packed.rows_of(band), together = packed.kernel->rows;
  std::vector<Row> rows((used + 47) / 48 * 48);  // rows beyond the matrix are empty; 48 is a multiple of every group size
  for (int r = 0; r < used; ++r) {
    rows[r] = row_entries(weight + (static_cast<std::size_t>(band) * band_rows + r) * packed.in + first, features);
    packed.nnz += rows[r].size();
  }
  std::vector<int> order = longest_first(rows);
  const bool pairs = packed.kernel->pairs;
  const Shared shared(std::span(rows.data(), pairs ? rows.size() : 0), packed.kernel->depth);
  if (pairs) order = by_pairs(order, shared);
  Tiled::Start start{packed.values.size(), packed.groups.size(), 0};
  for (std::size_t at = 0; at < order.size(); at += together) {
    const int* members = order.data() + at;
    const std::size_t steps = longest(rows, members, together);
    if (tile > 0 && steps == 0) continue;  // nothing to add; the first tile also writes the zeros
    append_group(packed, rows, members, steps, pairs ? share(rows, members, together, shared) : 0);
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
  for (int band = 0; band < packed.bands(); ++band)
    for (int tile = 0; tile < packed.tiles(); ++tile) append_tile(packed, weight, band, tile);
  packed.values.shrink_to_fit();
  packed.offsets.shrink_to_fit();
  packed.groups.shrink_to_fit();
  return packed;
}

void unpack(const Tiled& packed, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(packed.out) * packed.in, 0.0f);
  const int together = packed.kernel->rows, depth = packed.kernel->depth, heads = packed.kernel->heads();
  for (int band = 0; band < packed.bands(); ++band)
    for (int tile = 0; tile < packed.tiles(); ++tile) {
      const Segment segment = packed.segment(band, tile);
      std::size_t at = 0;
      for (std::size_t g = 0; g < segment.count; ++g) {
        const std::uint16_t* group = segment.groups + g * (heads + together);
        for (int step = 0; step < group[0]; ++step)
          for (int r = 0; r < together; ++r, ++at)
            if (segment.values[at] != 0.0f)
              weight[(static_cast<std::size_t>(band) * band_rows + group[heads + r]) * packed.in + tile * depth +
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
