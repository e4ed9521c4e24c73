// Runs a detector of `mmmeta export` on an image, with ONNX Runtime.
//
//   detect model.onnx image.ppm [SCORE]
//
// The image is a binary PPM file, so that no other library is needed:
// convert photo.jpg image.ppm

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int64_t height, width;
    std::vector<uint8_t> rgb;
};

Image read_ppm(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int64_t width = 0, height = 0, most = 0;
    file >> kind >> width >> height >> most;
    file.get();
    if (kind != "P6" || most != 255 || width < 1 || height < 1)
        throw std::runtime_error(std::string(path) + " is not a binary PPM file of 8 bits");
    Image image{height, width, std::vector<uint8_t>(3 * height * width)};
    file.read(reinterpret_cast<char*>(image.rgb.data()), image.rgb.size());
    if (!file) throw std::runtime_error(std::string(path) + " is truncated");
    return image;
}

int run(const char* path, Image image, float threshold) {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "detect");
    Ort::Session session(env, path, Ort::SessionOptions{});
    Ort::AllocatorWithDefaultOptions allocator;
    // A JSON list of names.
    auto classes = session.GetModelMetadata().LookupCustomMetadataMapAllocated("classes", allocator);
    if (!classes) throw std::runtime_error(std::string(path) + " has no classes");
    std::printf("classes: %s\n", classes.get());

    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::array<int64_t, 3> shape{image.height, image.width, 3};
    auto input = Ort::Value::CreateTensor<uint8_t>(
        memory, image.rgb.data(), image.rgb.size(), shape.data(), shape.size());
    const char* in[] = {"image"};
    const char* out[] = {"boxes", "scores", "labels"};
    auto found = session.Run(Ort::RunOptions{}, in, &input, 1, out, 3);
    const auto* boxes = found[0].GetTensorData<float>();
    const auto* scores = found[1].GetTensorData<float>();
    const auto* labels = found[2].GetTensorData<int64_t>();
    const auto count = found[1].GetTensorTypeAndShapeInfo().GetElementCount();
    for (size_t i = 0; i < count && labels[i] >= 0; ++i) {  // -1: no more detections
        if (scores[i] < threshold) break;
        const float* box = boxes + 4 * i;
        std::printf("%lld %.6f %.4f %.4f %.4f %.4f\n", static_cast<long long>(labels[i]),
                    scores[i], box[0], box[1], box[2], box[3]);
    }
    return 0;
}

int main(int count, char** words) {
    if (count < 3) {
        std::cerr << "usage: detect model.onnx image.ppm [SCORE]\n";
        return 2;
    }
    try {
        return run(words[1], read_ppm(words[2]), count > 3 ? std::atof(words[3]) : 0.3f);
    } catch (const std::exception& error) {
        std::cerr << "detect: " << error.what() << '\n';
        return 1;
    }
}
