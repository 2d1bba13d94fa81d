"""Rows with planted personal data, and where it is: made by Faker in several locales, with what only looks like it."""

from __future__ import annotations

import ipaddress
import random
import string
from urllib.parse import quote

from faker import Faker

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "ja_JP", "en_IN")
# Faker's JCB cards are of a range that is not given out in part.
# What is drawn is told by its name alone.
NAMED = ("password: ", "Passwort: ", "my password is ", "https://a.org/v1?token=", "https://a.org/v1?q=1&api_key=")
CARDS = ("visa16", "visa19", "mastercard", "amex", "discover", "diners", "maestro")
AMERICAN = Faker("en_US")
# Of locales without one Faker makes British IBANs, of 21 letters: they have 22.
OF_IBANS = [Faker(locale) for locale in ("de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL")]
KINDS = ("email", "phone", "iban", "card", "ip", "ssn", "key", "url_password")
SAYS = {
    "email": ("Write to {} for more.", "Mail: {}", "{}"),
    "phone": ("My phone number is {}.", "Tel.: {}", "You can call me at {} after six.", "Fax {}"),
    "iban": ("Send it to {} please.", "IBAN: {}", "({})"),
    "card": ("I paid with {} yesterday.", "Card number: {}", "{} was charged twice"),
    "ip": ("Last login from {}.", "{} - - GET /index.html", "client={}"),
    "ssn": ("My SSN is {}.", "social security number {}", "{} is on the form"),
    "key": ("api_key = {}", "export TOKEN={}", "Use the key {} for it."),
    "url_password": ("Connect to {}", 'url: "{}"', "see {} for the feed"),
}


def make_rows(seed: int, rows: int = 10_000, planted: int = 200) -> tuple[list[str], dict[int, str]]:
    """Make texts of rows, and for each row with something planted its kind."""
    rng = random.Random(seed)
    fakers = [Faker(locale) for locale in LOCALES]
    for number, faker in enumerate([*fakers, AMERICAN, *OF_IBANS]):
        faker.seed_instance(seed + number)
    sentences = [faker.paragraph() for faker in fakers for _ in range(40)]
    texts = []
    for _ in range(rows):
        faker = rng.choice(fakers)
        trap = make_trap(rng, faker) if rng.random() < 0.5 else ""
        texts.append(f"{rng.choice(sentences)} {trap}\n{rng.choice(sentences)}")
    where = dict(zip(rng.sample(range(rows), planted), [*KINDS] * (planted // len(KINDS)), strict=True))
    for row, kind in where.items():
        said = rng.choice(SAYS[kind]).format(make_value(kind, rng, rng.choice(fakers)))
        texts[row] = f"{rng.choice(sentences)} {said} {rng.choice(sentences)}"
    return texts, where


def make_value(kind: str, rng: random.Random, faker: Faker) -> str:
    if kind == "email":
        return rng.choice([lambda: faker.email(safe=False), faker.free_email, faker.company_email])()
    if kind == "phone":
        return faker.phone_number()
    if kind == "iban":
        iban = rng.choice(OF_IBANS).iban()
        return " ".join(iban[place : place + 4] for place in range(0, len(iban), 4)) if rng.random() < 0.5 else iban
    if kind == "card":
        return faker.credit_card_number(rng.choice(CARDS))
    if kind == "ip":
        # Faker draws of all there are, those of one's own network, too.
        sixes = (ipaddress.ip_address(faker.ipv6()) for _ in iter(int, 1))
        return faker.ipv4_public() if rng.random() < 0.6 else str(next(each for each in sixes if each.is_global))
    if kind == "ssn":
        return AMERICAN.ssn()
    letters = string.ascii_letters + string.digits
    drawn = "".join(rng.choices(letters, k=36))
    if kind == "key":
        if rng.random() < 0.4:
            return f"{rng.choice(NAMED)}{drawn[: rng.randint(12, 36)]}1a2"
        return rng.choice([f"ghp_{drawn}", f"hf_{drawn[:34]}", f"sk-proj-{drawn}A1", f"AKIA{drawn[:16].upper()}"])
    return f"https://{faker.user_name()}:{quote(faker.password(), safe='')}@{faker.domain_name()}/feed"


def break_iban(rng: random.Random) -> str:
    """Make a number of a bank account one digit of which is wrong, as it is printed."""
    iban = OF_IBANS[rng.randrange(len(OF_IBANS))].iban()
    iban = f"{iban[:-1]}{(int(iban[-1]) + 1) % 10}" if iban[-1].isdigit() else f"{iban[:2]}00{iban[4:]}"
    return " ".join(iban[place : place + 4] for place in range(0, len(iban), 4))


def make_trap(rng: random.Random, faker: Faker) -> str:
    number = rng.randint(10**9, 10**10 - 1)
    version = ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice([3, 4])))
    return rng.choice(
        [
            f"Order number {number}{rng.randint(0, 999_999)} has left.",
            f"Order #{number} of {faker.date()}.",
            f"Version {version} is out, v{version} too.",
            f"It was {faker.date(rng.choice(['%d.%m.%Y', '%Y-%m-%d', '%d/%m/%Y', '%m-%d-%Y']))} at {faker.time()}.",
            f"ISBN {faker.isbn13()} and {faker.isbn10()}",
            f"sha256 {faker.sha256()}",
            f"commit {faker.sha1()} of {faker.iso8601()}",
            f"md5: {faker.md5()}",
            f"It costs {rng.randint(1, 999)},{rng.randint(100, 999)}.{rng.randint(10, 99)} or {rng.random()}.",
            f"id {faker.uuid4()}",
            f"Between {rng.randint(1000, 1999)}-{rng.randint(2000, 2024)}, {rng.randint(1, 99)} km, pages 123-456.",
            f"@{faker.user_name()} said std::vector at 12:30:45, a ratio of 16:9:4.",
            f"logo@2x.png, git@github.com:{faker.user_name()}/x.git, react@18.2.0 and numpy==1.26.4",
            f"Mozilla/5.0 Chrome/120.0.0.0 Safari/537.36, 192.168.0.{rng.randint(1, 254)} and 127.0.0.1:8080",
            f"{rng.randint(1, 10**6)} {rng.randint(1, 10**6)} {rng.randint(1, 10**6)}",
            f"EAN {faker.ean13()}, ZIP 0{rng.randint(1000, 9999)}-{rng.randint(1000, 9999)}",
            f"Mail {faker.user_name()}@{rng.choice(['example.com', 'www.example.org', 'shop.test', 'a.invalid'])}.",
            f"IBAN {break_iban(rng)}, password: required, the token: identifier, ?token=page2&key=value",
            f"Part {rng.randint(10, 99)}-{rng.randint(1000, 9999)}-{rng.randint(100, 999)}.",
        ]
    )
