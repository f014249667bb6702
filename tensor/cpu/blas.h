// BLAS and LAPACK from OpenBLAS, loaded at first use so that its processor type can be set before.
// Matrices are row-major; sizes must fit in 32 bits. Threads: num_threads(), or one inside a
// parallel_for.
#pragma once

#include <cstdint>

namespace facet::blas {

// c (m, n) = alpha * op(a) op(b) + beta * c; lda, ldb, ldc: elements from a row as it lies in
// memory to the next. With beta = 0 the old c is not read.
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha,
          const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
          int64_t ldc);

// Upper triangle (column >= row) of c (n, n) = alpha * a a^T + beta * c with a (n, k), or
// alpha * a^T a + beta * c with a (k, n) if trans. The strictly lower triangle is left alone.
void syrk(bool trans, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, float beta,
          float* c, int64_t ldc);
void syrk(bool trans, int64_t n, int64_t k, double alpha, const double* a, int64_t lda, double beta,
          double* c, int64_t ldc);

// Eigenvalues of a symmetric (n, n) matrix in ascending order by xSYEVD. Reads the upper triangle
// of `matrix` and overwrites the matrix.
void symmetric_eigenvalues(int64_t n, float* matrix, float* values);
void symmetric_eigenvalues(int64_t n, double* matrix, double* values);

}  // namespace facet::blas
