"""A folder of images to Parquet, after https://docs.ray.io/en/latest/data/working-with-images.html."""

import ray
import ray.data

from tests.benchmarks.peers import common


def main() -> None:
    """Read and write, and tell rows a second."""
    args = common.options(folder="", output="", cpus=2)
    common.start_ray(args.cpus)
    began = common.time.perf_counter()
    dataset = ray.data.read_images(args.folder, include_paths=True, mode="RGB")
    dataset.write_parquet(args.output)
    seconds = common.time.perf_counter() - began
    import pyarrow.parquet as pq

    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in common.Path(args.output).glob("*.parquet"))
    common.tell(rows=rows, rows_per_s=rows / seconds)


if __name__ == "__main__":
    main()
