/* Crops of any size to a prepared batch (N, height, width, channels) uint8, on the GPU.

   With `grey` every channel is the grey one. A block takes 256 pixels of one crop; blockIdx.y is the crop. Made to PTX by
   benchmarks/crop_kernel.py, so that nobody needs a compiler to run it. */

#include "crop_kernel.h"

extern "C" __global__ void mip_edge_crop(unsigned char *batch, const CropJob *jobs, int width,
                                         int height, int channels, int grey) {
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= width * height) return;
    const CropJob *job = jobs + blockIdx.y;
    unsigned char *value = batch + ((long long)blockIdx.y * width * height + pixel) * channels;
    for (int channel = 0; channel < channels; ++channel)
        value[channel] = crop_value(job, pixel % width, pixel / width, channel, grey, width,
                                    height);
}
