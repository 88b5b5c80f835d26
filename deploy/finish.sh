#!/bin/sh
# finish.sh PYTHON-STATEMENTS [PACKAGES-TO-REMOVE [FOLDERS-TO-REMOVE]], run within the build: remove what is never used,
# write the bill of materials of the rest, and compile the modules that the statements import (the root file system is
# read-only, so anything not compiled here would be compiled at every start). A failing statement fails the build, so
# nothing needed can be removed.
# SOURCELESS=1: keep only byte code of third-party packages. TensorFlow reads its own sources, so not in the worker.
set -eu
imports=$1 packages=${2:-} folders=${3:-}
uv() { /opt/tools/bin/uv pip "$@"; }
for package in hatchling editables trove-classifiers pathspec pluggy $packages; do
  uv uninstall --quiet --python /opt/fitserve/bin/python "$package" 2>/dev/null || true
done
/opt/sbom/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/fitserve/sbom.cdx.json /opt/fitserve/bin/python

cd /opt/fitserve/lib/python3*/site-packages
rm -rf $folders
rm -rf tensorflow/include                                  # headers
rm -rf tensorflow/compiler/mlir/stablehlo tensorflow/compiler/tf2xla/ops/_xla_ops.so # never loaded
rm -rf onnx/backend/test                                   # test data of other backends
rm -f onnxruntime/capi/libonnxruntime.so*                  # for C programs; the Python module has its own copy
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools
rm -rf pyarrow/include pyarrow/src pyarrow/_flight* pyarrow/libarrow_flight* pyarrow/libarrow_python_flight*
rm -rf pyarrow/_s3fs* pyarrow/libarrow_s3*                 # S3 is accessed through s3fs
rm -rf pyarrow/_gcsfs* pyarrow/_azurefs* pyarrow/_hdfs* pyarrow/_orc* pyarrow/_dataset_orc* pyarrow/_substrait* \
  pyarrow/_*parquet_encryption* pyarrow/libarrow_python_parquet_encryption*
rm -f pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.* pyarrow/_pyarrow_cpp_tests*
if [ -e pyarrow/libarrow_substrait.so.* ]; then            # every library links it, none uses it: an empty one suffices
  name=$(basename pyarrow/libarrow_substrait.so.*)
  as -o /tmp/empty.o /dev/null
  ld -shared -soname "$name" -o "pyarrow/$name" /tmp/empty.o
fi
rm -f numpy/_core/_simd.* numpy/_core/_*_tests.*           # its own tests
rm -rf matplotlib/mpl-data/sample_data matplotlib/mpl-data/fonts/afm matplotlib/mpl-data/fonts/pdfcorefonts
if [ -d matplotlib ]; then                                 # no formulas are parsed and no windows opened
  find matplotlib/mpl-data/fonts/ttf -type f ! -name 'DejaVuSans.ttf' ! -name 'DejaVuSans-Bold.ttf' ! -name 'LastResort*' \
    ! -name 'LICENSE*' -delete
  rm -rf matplotlib/sphinxext matplotlib/testing matplotlib/backends/qt_editor matplotlib/backends/web_backend
  rm -f matplotlib/backends/*backend_gtk* matplotlib/backends/backend_[npqtw]* matplotlib/backends/_*tk*
  rm -rf mpl_toolkits/axisartist mpl_toolkits/axes_grid1
fi
if [ -d fontTools ]; then                                  # Matplotlib uses its glyph names, and writes no PDF here
  find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -rf {} +
fi
# Matplotlib uses Pillow only to write PNG: remove other formats and text drawing, with the libraries only they use.
rm -rf PIL/_avif* PIL/_webp* PIL/_imagingft* PIL/_imagingcms* PIL/_imagingtk*
for library in avif webp webpmux webpdemux sharpyuv freetype harfbuzz lcms2 png16 brotlidec brotlicommon; do
  rm -f pillow.libs/lib$library-*
done
rm -rf sqlalchemy/testing alembic/testing pydantic/v1
rm -f fastapi_offline/static/redoc.* grpc/_cython/_credentials/roots.pem # gRPC is only served here, not called
sed -i '/^$/q' ./*.dist-info/METADATA                       # keep the metadata, remove the readme files
if [ -d botocore/data ]; then                              # descriptions of other AWS services
  find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' -exec rm -rf {} +
fi
find . -type d -name tests -prune -exec rm -rf {} +
find . -type f \( -name '*.py[xi]' -o -name '*.px[di]' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cc' \
  -o -name '*.a' -o -name '*.proto' -o -path '*.dist-info/RECORD' \) -delete
# Libraries patched by auditwheel (in *.libs) cannot be loaded after stripping.
find . -type f -name '*.so*' ! -path './*.libs/*' -exec strip --strip-unneeded {} +
# SQLAlchemy asserts that its events have docstrings, so it keeps them.
if [ "${SOURCELESS:-}" ]; then /opt/fitserve/bin/python -W ignore /src/deploy/sourceless.py "$PWD" sqlalchemy numpy; fi

cd /app
find . -path '*/dashboard/*' -type f ! -name '*.py' -delete # its sources; the built pages come from their own stage
find . -type d -empty -delete
/opt/fitserve/bin/python -c "$imports"
/opt/fitserve/bin/python -m compileall -q .
