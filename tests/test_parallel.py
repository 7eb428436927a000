import sys

from flowerlib import parallel


def square(number):
    return number * number


def test_results_come_in_the_order_of_the_jobs_and_the_main_module_stays():
    main = sys.modules["__main__"]
    with parallel.parallel_map(square, range(100)) as results:
        assert sys.modules["__main__"] is main
        assert list(results) == [number * number for number in range(100)]
    assert sys.modules["__main__"] is main
