// A convolution that only works where its input is not zero: K×K, stride 1, padded with K/2 zeros, channels last, float32.
//
// Each pixel's active channels are listed first.  Then the input is walked row by row with the K×K outputs that a pixel reaches
// held in registers, which move along with it: a spike costs K·K additions of `LANES` output channels and reads nothing but
// weights.  Images are independent of each other, so a result depends neither on the batch nor on the number of threads.

#include <cstdint>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));

namespace {

struct Events {  // of one image: for each pixel, how many, and from pixel · channels on, which channels and their values
  std::vector<int32_t> count, channel;
  std::vector<float> value;
};

void list(const float* x, int64_t pixels, int channels, Events& events) {
  events.count.resize(pixels);
  events.channel.resize(pixels * channels + LANES);
  events.value.resize(pixels * channels + LANES);
  for (int64_t p = 0; p < pixels; ++p) {
    const float* from = x + p * channels;
    int32_t* channel = events.channel.data() + p * channels;
    float* value = events.value.data() + p * channels;
    int n = 0, c = 0;
#ifdef __AVX512F__
    __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; c + LANES <= channels; c += LANES, number = _mm512_add_epi32(number, _mm512_set1_epi32(LANES))) {
      const __m512 values = _mm512_loadu_ps(from + c);
      const __mmask16 active = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      _mm512_storeu_si512(channel + n, _mm512_maskz_compress_epi32(active, number));
      _mm512_storeu_ps(value + n, _mm512_maskz_compress_ps(active, values));
      n += __builtin_popcount(active);
    }
#endif
    for (; c < channels; ++c) {
      channel[n] = c;
      value[n] = from[c];
      n += from[c] != 0.0f;
    }
    events.count[p] = n;
  }
}

// weight [out / LANES][in][K][K][LANES], y [height][width][out]
template <int K>
void convolve(const Events& events, const float* weight, const float* bias, float* y, int height, int width, int in, int out) {
  constexpr int HALF = K / 2;
  for (int part = 0; part < out; part += LANES) {
    const float* weights = weight + int64_t(part) * in * K * K;
    const Lanes start = *reinterpret_cast<const Lanes*>(bias + part);
    for (int row = 0; row < height; ++row) {
      Lanes sum[K][K] = {};  // of the outputs at row − HALF … row + HALF, column − HALF … column + HALF
      for (int column = 0; column < width + HALF; ++column) {
        if (column < width) {
          const int64_t pixel = int64_t(row) * width + column;
          const int32_t* channel = events.channel.data() + pixel * in;
          const float* value = events.value.data() + pixel * in;
          for (int n = 0, many = events.count[pixel]; n < many; ++n) {
            const Lanes* w = reinterpret_cast<const Lanes*>(weights + int64_t(channel[n]) * K * K * LANES);
            const float x = value[n];
#pragma GCC unroll 25
            for (int i = 0; i < K; ++i)
#pragma GCC unroll 25
              for (int j = 0; j < K; ++j) sum[K - 1 - i][K - 1 - j] += x * w[i * K + j];
          }
        }
#pragma GCC unroll 25
        for (int i = 0; i < K; ++i) {
          const int to = row - HALF + i, at = column - HALF;
          if (at >= 0 && to >= 0 && to < height) {
            Lanes* target = reinterpret_cast<Lanes*>(y + (int64_t(to) * width + at) * out + part);
            *target = (i == K - 1 || row == 0 ? start : *target) + sum[i][0];
          }
#pragma GCC unroll 25
          for (int j = 0; j + 1 < K; ++j) sum[i][j] = sum[i][j + 1];
          sum[i][K - 1] = Lanes{};
        }
      }
    }
  }
}

}  // namespace

extern "C" {

int lanes() { return LANES; }

int parallel() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

void convolution(const float* x, const float* weight, const float* bias, float* y, int images, int height, int width, int in, int out,
                 int size, int threads) {
  const int64_t pixels = int64_t(height) * width;
#pragma omp parallel num_threads(threads)
  {
    Events events;
#pragma omp for
    for (int image = 0; image < images; ++image) {
      list(x + image * pixels * in, pixels, in, events);
      float* own = y + image * pixels * out;
      if (size == 1) convolve<1>(events, weight, bias, own, height, width, in, out);
      if (size == 3) convolve<3>(events, weight, bias, own, height, width, in, out);
      if (size == 5) convolve<5>(events, weight, bias, own, height, width, in, out);
    }
  }
}

}
