// Adds eight vectors across their lanes; after scalar.h.

// to[i] += sum of v[i] for i < n
inline void add_sums8(const Vec (&v)[8], float* to, int n) {
  for (int i = 0; i < n; ++i) to[i] += sum(v[i]);
}
