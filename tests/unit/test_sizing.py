"""How many processes score, and how many images go into one call, by the hardware."""

import pytest

from cnnjob.config.score import EngineConfig
from cnnjob.config.train import ModelConfig
from cnnjob.models.presets import net_for
from cnnjob.scoring.sizing import CACHE_BYTES, cpu_batch_size, gpu_batch_size, sizes_of

GIB = 1 << 30


def net(side: int):
    return net_for(ModelConfig(preset="default"), (3, side, side), 10)


@pytest.mark.parametrize(
    ("side", "images"), [(4, 64), (16, 64), (20, 32), (28, 16), (32, 16), (40, 8), (64, 4), (224, 4)]
)
def test_a_batch_stays_in_a_cpus_cache(side, images):
    """A batch on a CPU is the largest power of two whose largest map fits into the cache, from 4 to 64 images."""
    assert cpu_batch_size(net(side)) == images
    map_bytes = 4 * 16 * side * side
    assert images in (4, 64) or images * map_bytes <= CACHE_BYTES < 2 * images * map_bytes


@pytest.mark.parametrize(("side", "memory", "images"), [(32, 16 * GIB, 4096), (224, 16 * GIB, 256), (224, 1 << 20, 1)])
def test_a_gpus_memory_bears_a_batch(side, memory, images):
    """A batch on a GPU takes an eighth of its memory at most, however little that is, and 4,096 images at most."""
    assert gpu_batch_size(net(side), memory) == images


@pytest.mark.parametrize(
    ("config", "processes"),
    [
        ({}, 8),
        ({"threads_per_process": 3}, 2),
        ({"threads_per_process": 16}, 1),
        ({"num_processes": 5}, 5),
        ({"num_processes": 500}, 40),
        ({"use_gpu": True}, 3),
        ({"use_gpu": True, "num_processes": 2}, 2),
    ],
)
def test_there_are_as_many_processes_as_the_hardware_holds(config, processes):
    """A process for each CPU, or for each GPU; a stated number instead, and no more than there are units."""
    sizes = sizes_of(EngineConfig(**config), net(32), units=40, cpus=8, gpus=3)
    assert sizes.processes == processes
    assert sizes_of(EngineConfig(**config), net(32), units=1, cpus=8, gpus=3).processes == 1


def test_a_stated_batch_is_kept():
    """What the config says of batches holds on both; on a GPU only its process knows what fits otherwise."""
    for use_gpu in (False, True):
        config = EngineConfig(batch_size_per_process=7, use_gpu=use_gpu)
        assert sizes_of(config, net(32), units=4, cpus=2, gpus=1).batch_size == 7
    assert sizes_of(EngineConfig(use_gpu=True), net(32), units=4, cpus=2, gpus=1).batch_size is None


def test_people_are_told():
    """A job says in a line how it scores."""
    told = [
        str(sizes_of(EngineConfig(**config), net(32), units=40, cpus=2, gpus=1))
        for config in ({}, {"threads_per_process": 2}, {"use_gpu": True, "precision": "bf16"})
    ]
    assert told == [
        "2 processes of 1 thread, batches of 16",
        "1 process of 2 threads, batches of 16",
        "1 process with a GPU each, bf16, batches by its memory",
    ]
