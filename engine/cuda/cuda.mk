# The bubble instruction in a stream's order: built without CUDA, tested on a fake driver.
CUDA_SOURCES := engine/cuda/stream.c engine/cuda/driver.c
CUDA_HEADERS := $(wildcard engine/cuda/*.h)
CUDA_TESTS := $(BUILD)/tests/test_stream

$(BUILD)/libpipefill-cuda.so: $(CUDA_SOURCES) $(CUDA_HEADERS) $(LIB_SOURCES) $(LIB_HEADERS) engine/cuda/stream.map | $(BUILD)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_HARDENING) -shared -o $@ $(CUDA_SOURCES) $(LIB_SOURCES) -lpthread -ldl \
		-Wl,-soname,libpipefill-cuda.so.1 -Wl,--version-script=engine/cuda/stream.map -Wl,-z,defs,-z,relro,-z,now

# A libcuda whose streams are threads, and which can be late, early, silent and failing.
$(BUILD)/tests/libfakecuda.so: engine/cuda/tests/fake_cuda.c engine/cuda/tests/fake_cuda.h
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) -O1 -g -fPIC -shared -o $@ $< -lpthread

$(BUILD)/tests/test_stream: engine/cuda/tests/test_stream.c engine/cuda/tests/fake_cuda.h $(CUDA_SOURCES) $(CUDA_HEADERS) $(LIB_SOURCES) $(LIB_HEADERS) $(wildcard spank/tests/*.h) $(BUILD)/tests/libfakecuda.so
	@mkdir -p $(@D)
	$(CC) $(C_STANDARD) $(C_WARNINGS) $(C_SANITIZE) -Iengine/cuda -Ispank/tests -o $@ $< $(CUDA_SOURCES) $(LIB_SOURCES) -lpthread -ldl

.PHONY: check-c-cuda
check-c-cuda: $(CUDA_TESTS) $(BUILD)/libpipefill-cuda.so
	@nm -D --defined-only $(BUILD)/libpipefill-cuda.so | awk '$$3 !~ /^pf_stream_/ { print "exports " $$3; bad = 1 } END { exit bad }'
	@for t in $(CUDA_TESTS); do echo "# $$t"; $$t $(BUILD)/tests/libfakecuda.so || exit 1; done
