//! Against CPython 3.11's `random`: `random.Random(seed)`, its `random()`, `sample(range(n), k)` and `choices`.
use super::Random;

#[test]
fn numbers_are_cpythons() {
    let mut random = Random::new(0);
    assert_eq!([(); 4].map(|()| random.bits()), [3626764237, 1654615998, 3255389356, 3823568514]);
    assert_eq!([(); 2].map(|()| random.unit()), [0.420571580830845, 0.25891675029296335]);
    let mut random = Random::new(1234);
    assert_eq!([(); 4].map(|()| random.bits()), [4150886329, 3342196574, 1892932127, 501869158]);
    assert_eq!([(); 2].map(|()| random.unit()), [0.007491470058587191, 0.9109759624491242]);
    let mut random = Random::new(4294967295);
    assert_eq!([(); 4].map(|()| random.bits()), [2728839433, 2661025012, 872737089, 924893097]);
    assert_eq!([(); 2].map(|()| random.unit()), [0.6073666030347188, 0.29133552762158776]);
    let mut random = Random::new(7);
    for _ in 0..700 {
        random.bits();
    }
    assert_eq!(random.bits(), 2724896942);
}

#[test]
fn samples_are_cpythons() {
    let mut random = Random::new(1234);
    assert_eq!(random.sample(7473, 5), [6374, 3610, 957, 61, 742]);
    assert_eq!(random.sample(7473, 5), [7462, 6610, 4769, 286, 5501]);
    assert_eq!(random.sample(5, 5), [0, 4, 1, 3, 2]);
    assert_eq!(random.sample(21, 5), [0, 20, 11, 15, 14]);
    assert_eq!(random.sample(22, 5), [4, 2, 5, 3, 0]);
    assert_eq!(random.sample(85, 6), [64, 62, 31, 8, 69, 59]);
    assert_eq!(random.sample(86, 6), [8, 76, 11, 65, 74, 5]);
    assert_eq!(
        random.sample(1000, 25),
        [
            276, 844, 569, 64, 660, 309, 492, 870, 363, 272, 255, 671, 955, 204, 464, 897, 542, 681, 19, 964, 520, 72,
            5, 341, 147
        ]
    );
    assert_eq!(random.sample(300, 8), [242, 193, 85, 27, 39, 254, 83, 38]);
    assert_eq!(random.sample(1, 1), [0]);
    assert!(random.sample(30, 0).is_empty());
    assert_eq!(Random::new(3).sample(4, 9).len(), 4);
}

#[test]
fn choices_are_cpythons() {
    let mut random = Random::new(3);
    let drawn: Vec<usize> = (0..8).map(|_| (random.unit() * 10.0) as usize).collect();
    assert_eq!(drawn, [2, 5, 3, 6, 6, 0, 0, 8]);
}
