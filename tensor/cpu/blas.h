// BLAS and LAPACK from OpenBLAS, loaded at first use so that its processor type can be set before.
// Matrices are row-major; sizes must fit in 32 bits. Threads: num_threads(), or one inside a
// parallel_for.
#pragma once

#include <cstdint>

namespace facet::blas {

// T: float or double.

// c (m, n) = alpha * op(a) op(b) + beta * c; lda, ldb, ldc: elements from a row as it lies in
// memory to the next. With beta = 0 the old c is not read.
template <typename T>
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
          int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

// Upper triangle (column >= row) of c (n, n) = alpha * a a^T + beta * c with a (n, k), or
// alpha * a^T a + beta * c with a (k, n) if trans. The strictly lower triangle is left alone.
template <typename T>
void syrk(bool trans, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, T beta, T* c,
          int64_t ldc);

// Eigenvalues of a symmetric (n, n) matrix in ascending order by xSYEVD. Reads the upper triangle
// of `matrix` and overwrites the matrix.
template <typename T>
void symmetric_eigenvalues(int64_t n, T* matrix, T* values);

}  // namespace facet::blas
