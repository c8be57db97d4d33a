"""What pages share: charts, bars, colours, words, notices, links, prices.

Every page may import it; it imports no page.
"""
