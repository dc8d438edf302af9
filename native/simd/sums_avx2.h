// Adds eight vectors across their lanes at once; after avx2.h.

// to[i] += sum of v[i] for i < n
inline void add_sums8(const Vec (&v)[8], float* to, int n) {
  const Vec low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const Vec high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  const Vec all = add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
  if (n == 8)
    storeu(to, add(all, loadu(to)));
  else
    store_n(to, add(all, load_n(to, n)), n);
}
