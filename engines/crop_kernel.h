/* The arithmetic of one pixel of a prepared crop: plain C, so that a test can run it on a CPU.

   It follows `mip_edge.preprocess.prepare`: pixel centres, bilinear, no antialiasing, the crop's own
   edge repeated; a colour crop becomes grey before it is resized, as OpenCV does it. */

#ifndef MIP_EDGE_CROP_KERNEL_H
#define MIP_EDGE_CROP_KERNEL_H

#ifdef __CUDACC__
#define MIP_EDGE_BOTH __host__ __device__ __forceinline__
#else
#define MIP_EDGE_BOTH static inline
#endif

typedef struct {
    unsigned long long frame; /* address of its first pixel */
    int row_bytes;
    int channels; /* of the frame: 3 (RGB) or 1 */
    int x, y;     /* of the crop's first pixel in the frame */
    int width, height;
} CropJob; /* 32 bytes: engines/gpu_crop.py packs the same */

/* One channel of one pixel of the frame; `grey` makes it of all three. */
MIP_EDGE_BOTH int crop_tap(const CropJob *job, int x, int y, int channel, int grey) {
    const unsigned char *pixel = (const unsigned char *)(unsigned long long)job->frame +
                                 (long long)(job->y + y) * job->row_bytes +
                                 (long long)(job->x + x) * job->channels;
    if (job->channels == 1) return pixel[0];
    if (!grey) return pixel[channel];
    /* ITU-R BT.601 in 15 bits, as cv2.cvtColor(RGB2GRAY) */
    return (9798 * pixel[0] + 19235 * pixel[1] + 3735 * pixel[2] + 16384) >> 15;
}

/* One value of the prepared crop of `width` x `height`. */
MIP_EDGE_BOTH unsigned char crop_value(const CropJob *job, int column, int row, int channel,
                                       int grey, int width, int height) {
    float x = (column + 0.5f) * ((float)job->width / (float)width) - 0.5f;
    float y = (row + 0.5f) * ((float)job->height / (float)height) - 0.5f;
    float last_x = (float)(job->width - 1), last_y = (float)(job->height - 1);
    x = x < 0.0f ? 0.0f : (x > last_x ? last_x : x);
    y = y < 0.0f ? 0.0f : (y > last_y ? last_y : y);
    int left = (int)x, top = (int)y;
    int right = left + 1 < job->width ? left + 1 : left;
    int bottom = top + 1 < job->height ? top + 1 : top;
    float across = x - (float)left, down = y - (float)top;
    float upper = (1.0f - across) * crop_tap(job, left, top, channel, grey) +
                  across * crop_tap(job, right, top, channel, grey);
    float lower = (1.0f - across) * crop_tap(job, left, bottom, channel, grey) +
                  across * crop_tap(job, right, bottom, channel, grey);
    return (unsigned char)((1.0f - down) * upper + down * lower + 0.5f);
}

#endif
