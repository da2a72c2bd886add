# ruff: noqa: SIM905 (lists of words read better as text)
"""The built-in corpus: AN4's layout and sentence kinds, spoken by espeak-ng. It replaces AN4 where AN4 is unavailable.

The texts follow the session of each AN4 speaker: five commands (YES, ENTER SEVENTY ONE, RUBOUT
G M E F THREE NINE), then surname, first name, house number, street, city, zip code, phone number and date of birth.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr
from scipy.signal import lfilter
from tqdm import tqdm

from asr_with_nemo.data.espeak import Speaker, Voice
from asr_with_nemo.errors import InputError

VOICE_NOTICE = (
    "This is the built-in synthetic corpus (computer voices of espeak-ng) standing in for AN4: "
    "its word error rates say nothing about people's speech."
)
FULL_SIZE = 1078  # AN4's 948 + 130
SMALLEST_SIZE = 20
RATE = 16000
_README = f"""{VOICE_NOTICE}

It is not AN4, and holds no recording of a person. Layout, file formats and sentence kinds are those of Carnegie Mellon
University's AN4 (Census) database, so that everything that reads the one reads the other; names, numbers and dates are
made up. Made by asr_with_nemo.synthetic with utterances={{utterances}} and seed={{seed}}: the same two numbers make
the same files again.

-wav/an4_clstk: training utterances
-wav/an4test_clstk: test utterances, by other voices
-etc: transcriptions and lists of files
"""


# ---- Texts --------------------------------------------------------------------------------------------------------


_DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
_TEENS = "TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN".split()
_TENS = "TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY".split()
_MONTHS = "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER".split()
# The ordinals that AN4's dictionary has; nobody in it was born on a tenth or a thirteenth.
_ORDINALS = {
    **{1: "FIRST", 2: "SECOND", 3: "THIRD", 4: "FOURTH", 5: "FIFTH", 6: "SIXTH", 7: "SEVENTH", 8: "EIGHTH"},
    **{9: "NINTH", 11: "ELEVENTH", 12: "TWELFTH", 15: "FIFTEENTH", 16: "SIXTEENTH", 18: "EIGHTEENTH"},
    **{20: "TWENTIETH", 30: "THIRTIETH"},
}
_CONTROLS = {"YES": 21, "REPEAT": 17, "STOP": 16, "NO": 16, "HELP": 12, "START": 11, "GO": 10}  # as often as in AN4
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SURNAMES = """
ADAMS ALLEN ANDERSON BAILEY BAKER BARNES BELL BENNETT BISHOP BLACK BOYD BROOKS BRYANT BURKE BUTLER CAMPBELL
CARTER CHAMBERS CHAVEZ COHEN COLEMAN COLLINS COOPER COX CRAWFORD CRUZ CURTIS DAVIS DIAZ DIXON DOUGHERTY DUFFY
DUNCAN EDWARDS ELLIS ESCHENBACH EVANS FERGUSON FISCHER FITZPATRICK FLEMING FOSTER FOX FREEMAN GARCIA GIBSON
GONZALEZ GRAHAM GRIFFIN GUTIERREZ HALL HARPER HAYES HERNANDEZ HICKS HOFFMAN HUGHES HUNTER JACKSON JENKINS
JIMENEZ JORDAN KAPLAN KAUFMANN KELLER KENNEDY KIM KNIGHT KOWALSKI KRAMER LARSON LAWRENCE LEVINE LOGAN LOPEZ
MARQUEZ MARTIN MCCARTHY MCDOWELL MENDOZA MEYER MILLER MITCHELL MORGAN MURPHY MYERS NAKAMURA NEWTON NGUYEN
NICHOLS NOVAK O'BRIEN O'CONNOR O'NEILL OLSON ORTIZ OWENS PALMER PARKER PAYNE PEREZ PERKINS PETERSON PIERCE
PORTER POWELL PRICE QUIGLEY QUINN RAMIREZ REYNOLDS RICHARDSON RIVERA ROBERTSON ROGERS ROMERO ROSS RUSSELL
SANCHEZ SCHMIDT SCHWARTZ SHAW SIMPSON SNYDER SPENCER STEWART SULLIVAN TANAKA TORRES TUCKER TURNER VARGAS VASQUEZ
WAGNER WALKER WALLACE WEAVER WEBB WHEELER WILSON WOODS WRIGHT XAVIER YAMADA YOUNG ZHANG ZIEGLER ZIMMERMAN
""".split()
_FIRST_NAMES = {
    "f": """
ALICE AMANDA AMY ANGELA ANNE BARBARA BETH CAROL CATHERINE CHERYL DEBORAH DIANE DONNA DOROTHY ELIZABETH EMILY
FRANCES GAIL HEATHER HELEN JANE JANET JESSICA JOAN JUDITH KATHY KIMBERLY LAURA LISA LORI LYNN MARIA MARTHA MARY
MELISSA MICHELLE NANCY PAMELA PATRICIA REBECCA ROSE RUTH SANDRA SARAH STEPHANIE SUSAN THERESA VALERIE VICTORIA
WENDY
""".split(),
    "m": """
AARON ALAN ALEX ANDREW ANTHONY BENJAMIN BILL BRUCE CARL CRAIG DENNIS DOUG EDWARD FRANK FRED GARY GEORGE GLENN
GREGORY HAROLD HENRY JACK JASON JAY JEFFREY JEROME JIM JOE JUSTIN KEITH KENNETH KEVIN LARRY LEE LOUIS MARTIN MAX
NICK OSCAR PATRICK PAUL PETER PHILIP RALPH RAY RODNEY ROGER RON RYAN SAM SCOTT SEAN STANLEY TED TERRY TODD
VICTOR VINCENT WALTER
""".split(),
}
_STREETS = """
ASH ASPEN BAYARD BEECHWOOD BELLEVUE BENNINGTON BIGELOW BIRCH BRIGHTON BROADWAY BRYNMAWR BUTLER CEDAR CHERRY
CHESTNUT CHURCH CLYDE COLLEGE CRAIG CYPRESS DENNISTON DEVON DOGWOOD ELM EUCLID EVERGREEN FAIRVIEW FOREST
FRANKLIN FRIENDSHIP GLADSTONE GREENFIELD GROVE HAZELWOOD HICKORY HILLCREST HOLLY JACKSON JUNIPER KENTUCKY
KIRKWOOD LAKESIDE LAUREL LEXINGTON LIBERTY LINCOLN LINDEN LOCUST MADISON MAGNOLIA MAIN MEYRAN MILTON MONROE
MULBERRY NORTHUMBERLAND OAK OAKLAND ORCHARD PENN PHILLIPS PIKE POPLAR QUEENSTON RIDGE RIVERVIEW SHADY SPRUCE
STANTON SUMMIT SYCAMORE UNIVERSITY VALLEY WALNUT WASHINGTON WILLOW WOODLAWN XENIA ZEBULON
""".split()
_STREET_KINDS = "AVE AVENUE COURT DRIVE LANE PLACE ROAD STREET".split()
_CITIES = """
AKRON ALBANY ALLENTOWN ALTOONA ATLANTA BALTIMORE BETHLEHEM BOISE BOSTON BUFFALO BUTLER CHICAGO CLAIRTON
CLEVELAND COLUMBUS CORAOPOLIS DALLAS DAYTON DENVER DETROIT DUQUESNE ERIE FRESNO GREENSBURG HARRISBURG HARTFORD
HERSHEY HOUSTON JEANNETTE JOHNSTOWN KITTANNING LANCASTER LATROBE MADISON MEMPHIS MONROEVILLE MOON OAKMONT OXFORD
PEORIA PHILADELPHIA PHOENIX QUINCY READING ROANOKE SCRANTON SEATTLE SYRACUSE TARENTUM TOLEDO UNIONTOWN WEXFORD
WHEELING XENIA YORK YOUNGSTOWN ZANESVILLE
""".split()


def _spell(name: str) -> list[str]:
    return ["APOSTROPHE" if letter == "'" else letter for letter in name]


def _draw(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _cardinal(number: int) -> list[str]:
    """Return the words of a number from 0 to 99.

    Example:
        >>> _cardinal(42)
        ['FORTY', 'TWO']
    """
    if number < 10:
        return [_DIGITS[number]]
    if number < 20:
        return [_TEENS[number - 10]]
    return [_TENS[number // 10 - 2]] + ([_DIGITS[number % 10]] if number % 10 else [])


def _digits(rng: random.Random, digits: str) -> list[str]:
    zero = rng.choice(["OH", "ZERO"])
    return [zero if digit == "0" else _DIGITS[int(digit)] for digit in digits]


def _pair(rng: random.Random, number: int) -> list[str]:
    """Return the words of the last two digits of a house number or a year: SEVENTEEN, OH THREE."""
    return _digits(rng, f"{number:02d}") if 0 < number < 10 else ["HUNDRED"] if number == 0 else _cardinal(number)


def _in_full(rng: random.Random, number: int) -> list[str]:
    """Return the words of a number up to 99,999: FOUR THOUSAND SEVEN HUNDRED (AND) TWENTY THREE."""
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    words = [*_cardinal(thousands), "THOUSAND"] if thousands else []
    words += [_DIGITS[hundreds], "HUNDRED"] if hundreds else []
    if rest or not words:
        words += (["AND"] if words and rng.random() < 0.5 else []) + _cardinal(rest)
    return words


def _number(rng: random.Random, length: int) -> list[str]:
    """Return the words of a random number of `length` digits (1 to 5), in one of the usual readings."""
    number = rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)
    if length == 1:
        return _digits(rng, str(number))
    ways = {"digits": 3 if length == 2 else 10, "in full": 17 if length == 2 else 2}
    if length in (3, 4):
        ways["pairs"] = 8
    way = _draw(rng, ways)
    if way == "digits":
        return _digits(rng, str(number))
    if way == "in full":
        return _in_full(rng, number)
    return _cardinal(number // 100) + _pair(rng, number % 100)


def _code_number(rng: random.Random) -> list[str]:
    return _number(rng, rng.choices([1, 2, 3, 4, 5], [30, 36, 20, 12, 2])[0])


def _code(rng: random.Random) -> list[str]:
    return rng.choices(_LETTERS, k=rng.choices([1, 2, 3, 4, 5], [2, 1, 2, 46, 49])[0])


def _command(rng: random.Random) -> list[str]:
    kind = _draw(rng, {"control": 28, "ENTER": 23, "code": 24, "RUBOUT": 16, "ERASE": 9})
    if kind == "control":
        return [_draw(rng, _CONTROLS)]
    if kind == "ENTER":
        return [kind, *_code_number(rng)]
    return ([] if kind == "code" else [kind]) + _code(rng) + _code_number(rng)


def _house_number(rng: random.Random) -> list[str]:
    box = _spell("BOX") if rng.random() < 0.03 else []
    apartment = _draw(rng, {"": 92, "AND A HALF": 4, "letter": 4})
    tail = rng.choices(_LETTERS[:6]) if apartment == "letter" else apartment.split()
    return box + _number(rng, rng.choices([2, 3, 4], [10, 45, 45])[0]) + tail


def _street(rng: random.Random) -> list[str]:
    if rng.random() < 0.04:
        numbered = [*_cardinal(rng.randrange(20, 100, 10)), _ORDINALS[rng.randrange(1, 10)]]
        return [*_spell(rng.choice(["EAST", "WEST"])), *numbered, *_spell("STREET")]
    kind = rng.choice(_STREET_KINDS) if rng.random() < 0.25 else ""
    return _spell(rng.choice(_STREETS) + kind)


def _city(rng: random.Random) -> list[str]:
    return _spell(_draw(rng, {"PITTSBURGH": 60, "PGH": 4, rng.choice(_CITIES): 36}))


def _zip_code(rng: random.Random) -> list[str]:
    pittsburgh, elsewhere = f"152{rng.randrange(1, 45):02d}", f"{rng.randrange(1000, 100000):05d}"
    return _digits(rng, pittsburgh if rng.random() < 0.7 else elsewhere)


def _phone_number(rng: random.Random) -> list[str]:
    number = _digits(rng, f"{rng.choice([268, 421, 422, 521, 621, 681, 683])}{rng.randrange(10000):04d}")
    kind = _draw(rng, {"local": 78, "long": 18, "AREA CODE": 4})
    if kind == "local":
        return number
    area = _digits(rng, rng.choice(["412", "412", "412", "201", "215", "814", "919"]))
    return ([] if kind == "long" else kind.split()) + area + number


def _date_of_birth(rng: random.Random) -> list[str]:
    month = rng.randrange(1, 13)
    day = rng.randrange(1, 29 if month == 2 else 31)
    name = _MONTHS[month - 1]
    year = _cardinal(rng.randrange(28, 72))
    if day in _ORDINALS:
        ordinal = [_ORDINALS[day]]
    elif day > 20:
        ordinal = ["TWENTY", _ORDINALS[day - 20]]
    else:
        ordinal = _cardinal(day)
    kind = _draw(rng, {"figures": 38, "month first": 46, "day first": 6, "of": 6, "spelled": 4})
    if kind == "figures":
        return [*_cardinal(month), *_cardinal(day), *(["NINETEEN"] if rng.random() < 0.2 else []), *year]
    if kind == "month first":
        return [name, *ordinal, *(["NINETEEN"] if rng.random() < 0.9 else []), *year]
    if kind == "day first":
        return [*_cardinal(day), name, "NINETEEN", *year]
    if kind == "of":
        return [*ordinal, "OF", name, "NINETEEN", *year]
    return [*_spell(name), *_cardinal(day), "NINETEEN", *year]


_CENSUS: dict[str, Callable[[random.Random], list[str]]] = {
    "cen3": _house_number,
    "cen4": _street,
    "cen5": _city,
    "cen6": _zip_code,
    "cen7": _phone_number,
    "cen8": _date_of_birth,
}
_COMMANDS_PER_SPEAKER = 5
_SESSION = _COMMANDS_PER_SPEAKER + 2 + len(_CENSUS)  # 13 utterances


def speaker_session(rng: random.Random, sex: str, surname: str) -> dict[str, list[str]]:
    """Return one speaker's 13 utterances in AN4's order: name of the utterance (`an1`, `cen1` ...) → words."""
    said = {f"an{number}": _command(rng) for number in range(1, _COMMANDS_PER_SPEAKER + 1)}
    said |= {"cen1": _spell(surname), "cen2": _spell(rng.choice(_FIRST_NAMES[sex]))}
    return said | {name: make(rng) for name, make in _CENSUS.items()}


# ---- Speakers ----------------------------------------------------------------------------------------------------


# Accents of English, as often as they are drawn: AN4's speakers are mostly American.
_ACCENTS = {
    **{"en-us": 45, "en-us-nyc": 15, "en": 10, "en-gb-x-rp": 10},
    **{"en-gb-scotland": 7, "en-gb-x-gbclan": 5, "en-gb-x-gbcwmd": 4, "en-029": 4},
}
# The variants that sound like a person: no whisper, croak, robot, monster or cartoon.
_VARIANTS = {
    "f": "f1 f2 f3 f4 f5 Alicia Andrea Annie aunty belinda grandma linda shelby".split(),
    "m": """
m1 m2 m3 m4 m5 m6 m7 m8 Alex Andy Denis Diogo Gene Gene2 Jacky Lee Marco Mario Michael Mike adam antonio boris
ed grandpa gustave ian john marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro travis
victor
""".split(),
}


@dataclass(frozen=True)
class _Person:
    name: str  # as AN4's: f or m, then letters
    surname: str
    voice: Voice
    tract: float  # length of the vocal tract against the variant's own: scales formants and pitch
    loudness: float  # RMS of the speech, in 16-bit steps
    noise: float  # RMS of the noise floor, in 16-bit steps
    hesitation: float  # how likely is a pause between the parts of a sentence
    test: bool


def _people(rng: random.Random, trainers: int, testers: int) -> list[_Person]:
    """Return the speakers, each with another voice or accent, sorted by split and name as in AN4's lists."""
    sexes = [
        "f" if place < round(count * share) else "m"
        for count, share in ((trainers, 21 / 74), (testers, 3 / 10))  # AN4's shares of women
        for place in range(count)
    ]
    surnames = rng.sample(_SURNAMES, len(sexes))
    voices: set[tuple[str, str]] = set()
    names: set[str] = set()
    people = []
    for place, (sex, surname) in enumerate(zip(sexes, surnames, strict=True)):
        while (voice := (_draw(rng, _ACCENTS), rng.choice(_VARIANTS[sex]))) in voices:
            pass
        while (name := sex + "".join(rng.choices("bcdghjklmnprstw", k=3))) in names:
            pass
        voices.add(voice)
        names.add(name)
        people.append(
            _Person(
                name=name,
                surname=surname,
                voice=Voice(
                    *voice,
                    words_per_minute=rng.randint(130, 195),
                    pitch=rng.randint(35, 65) if sex == "f" else rng.randint(40, 85),
                    pitch_range=rng.randint(30, 75),
                    word_gap=rng.randint(2, 9),  # with none, the letters A A are one long vowel
                ),
                tract=rng.uniform(0.94, 1.06),
                loudness=rng.lognormvariate(6.9, 0.35),
                noise=rng.uniform(5, 25),
                hesitation=rng.uniform(0, 0.6),
                test=place >= trainers,
            )
        )
    return sorted(people, key=lambda person: (person.test, person.name))


# ---- Sound --------------------------------------------------------------------------------------------------------


# Where espeak-ng would read a letter as a word: A as the article, I as the pronoun, both weak.
_SPOKEN = {"A": "[['eI]]", "I": "[['aI]]", "RUBOUT": "rub out"}


def spoken(words: Sequence[str], hesitates: Callable[[], bool] = lambda: False) -> str:
    """Return the text for espeak-ng in which single letters are spoken by their names.

    Args:
        words: a transcript's words, upper case.
        hesitates: called wherever letters begin or end; True adds a pause there.

    Example:
        >>> spoken(["ENTER", "B", "SIX"])
        'enter B six'
    """
    text: list[str] = []
    was_letter = False
    for place, word in enumerate(words):
        article = word == "A" and list(words[place + 1 : place + 2]) == ["HALF"]
        letter = word == "APOSTROPHE" or (len(word) == 1 and not article)
        if text and letter != was_letter and hesitates():
            text[-1] += ","
        text.append("a" if article else _SPOKEN.get(word, word if len(word) == 1 else word.lower()))
        was_letter = letter
    return " ".join(text)


def _recording(speaker: Speaker, person: _Person, words: Sequence[str], rng: random.Random) -> np.ndarray:
    """Return one utterance as of a close-talking microphone: int16, shape (samples,), at RATE."""
    voice = replace(
        person.voice,
        words_per_minute=round(person.voice.words_per_minute * rng.uniform(0.93, 1.07)),
        pitch=person.voice.pitch + rng.randint(-4, 4),
        pitch_range=person.voice.pitch_range + rng.randint(-8, 8),
    )
    speech = speaker.say(spoken(words, lambda: rng.random() < person.hesitation), voice).astype(np.float32)
    speech = soxr.resample(speech, speaker.rate / person.tract, RATE)
    speech *= person.loudness * rng.uniform(0.85, 1.15) / np.sqrt(np.mean(speech**2))
    before, after = (round(rng.uniform(0.1, 0.4) * RATE) for _ in range(2))
    signal = np.pad(speech, (before, after))
    hiss = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(signal))
    hiss = lfilter([1.0], [1.0, -0.7], hiss)  # falls with frequency, as a room's does
    signal = signal + hiss * (person.noise / hiss.std())
    return np.clip(np.rint(signal), -32768, 32767).astype(np.int16)


# ---- Files --------------------------------------------------------------------------------------------------------


def write_sphere(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write 16-bit mono samples as a NIST SPHERE file with the header fields of AN4's files.

    Args:
        path: the file to write.
        samples: int16, shape (samples,).
        rate: sample rate in Hz.

    Raises:
        InputError: the samples are not int16 in one channel, or there are none.
    """
    if samples.dtype != np.int16 or samples.ndim != 1 or not len(samples):
        raise InputError(
            f"{path}: a SPHERE file is written from int16 samples of shape (samples,), "
            f"got {samples.dtype} {samples.shape}. Convert them first."
        )
    fields = {
        "sample_count -i": len(samples),
        "sample_rate -i": rate,
        "sample_n_bytes -i": 2,
        "sample_byte_format -s2": "01",  # little end first
        "channel_count -i": 1,
        "sample_coding -s3": "pcm",
        "sample_max -i": samples.max(),
        "sample_min -i": samples.min(),
        "sample_checksum -i": int(samples.sum(dtype=np.int64)) % 65536,
    }
    lines = ["NIST_1A", "   1024", *(f"{name} {value}" for name, value in fields.items()), "end_head", ""]
    path.write_bytes("\n".join(lines).encode("ascii").ljust(1024) + samples.astype("<i2").tobytes())


def _sizes(utterances: int) -> Iterator[tuple[int, int]]:
    """Yield (utterances, speakers) of train and of test, in AN4's proportions."""
    for share, speakers, fewest in ((948, 74, 3), (130, 10, 1)):
        count = round(utterances * share / FULL_SIZE)
        yield count, max(fewest, -(-count // _SESSION), round(count * speakers / share))


def _shares(count: int, speakers: int) -> list[int]:
    return [count // speakers + (place < count % speakers) for place in range(speakers)]


def make_corpus(folder: Path, *, utterances: int = FULL_SIZE, seed: int = 0, progress: bool = True) -> None:
    """Write the built-in corpus as a tree like that of AN4's archive: `etc/`, `wav/`, `README`.

    The speakers of train and test differ in voice. The same `utterances` and `seed` give the same bytes.

    Args:
        folder: destination, new or empty. Transcripts are written last, so an interrupted tree has none.
        utterances: of train and test together, 88% of them train; by default as many as AN4 has.
        seed: of all random choices: names, numbers, voices, noise.
        progress: show a progress bar.

    Raises:
        InputError: fewer than SMALLEST_SIZE or more than FULL_SIZE utterances, a negative seed, a folder that isn't
            empty or can't be written, espeak-ng missing.
    """
    if not SMALLEST_SIZE <= utterances <= FULL_SIZE:
        raise InputError(
            f"The built-in corpus has {SMALLEST_SIZE} to {FULL_SIZE} utterances, {utterances} were requested. "
            "Choose a number in this range."
        )
    if seed < 0:
        raise InputError(f"The built-in corpus takes a seed of 0 or more, got {seed}.")
    with Speaker() as speaker:  # first, so that nothing is written if espeak-ng is missing
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise InputError(
                    f"{folder}: the built-in corpus needs an empty folder. Remove it, or name another one."
                )
            _write_tree(speaker, folder, utterances, seed, progress)
        except OSError as error:
            raise InputError(
                f"{folder}: the built-in corpus can't be written there: {error}. Name a folder that you may write to."
            ) from error


def _write_tree(speaker: Speaker, folder: Path, utterances: int, seed: int, progress: bool) -> None:
    (folder / "README").write_text(_README.format(utterances=utterances, seed=seed))
    (train_count, trainers), (test_count, testers) = _sizes(utterances)
    people = _people(random.Random(seed), trainers, testers)
    shares = _shares(train_count, trainers) + _shares(test_count, testers)
    transcripts: dict[str, list[str]] = {"train": [], "test": []}
    fileids: dict[str, list[str]] = {"train": [], "test": []}
    with tqdm(total=utterances, desc="built-in corpus", unit="utterance", disable=not progress) as bar:
        for place, (person, share) in enumerate(zip(people, shares, strict=True)):
            rng = random.Random(f"{seed} {person.name}")
            said = speaker_session(rng, person.name[0], person.surname)
            chosen = sorted(rng.sample(range(_SESSION), share))
            split, part = ("test", "an4test_clstk") if person.test else ("train", "an4_clstk")
            (folder / "wav" / part / person.name).mkdir(parents=True)
            for index in chosen:
                name, words = list(said.items())[index]
                if name.startswith("an"):
                    name = f"an{place * _COMMANDS_PER_SPEAKER + index + 1}"
                fileid = f"{name}-{person.name}-b"
                path = folder / "wav" / part / person.name / f"{fileid}.sph"
                write_sphere(path, _recording(speaker, person, words, rng), RATE)
                text = " ".join(words)
                transcripts[split].append(f"{text} ({fileid})" if person.test else f"<s> {text} </s> ({fileid})")
                fileids[split].append(f"{part}/{person.name}/{fileid}")
                bar.update()
    (folder / "etc").mkdir()
    for split in ("train", "test"):
        (folder / "etc" / f"an4_{split}.fileids").write_text("\n".join(fileids[split]) + "\n")
        (folder / "etc" / f"an4_{split}.transcription").write_text("\n".join(transcripts[split]) + "\n")
